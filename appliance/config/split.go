package config

import (
	"bytes"
	"fmt"
	"runtime"
)

// The libraries of the kinds of token, as Debian places them.
var modules = map[string]string{
	"softhsm": "/usr/lib/softhsm/libsofthsm2.so",
	"card":    "/usr/lib/" + triplet() + "/opensc-pkcs11.so",
	"tpm":     "/usr/lib/" + triplet() + "/pkcs11/libtpm2_pkcs11.so",
}

// triplet names the architecture as folders of libraries do.
func triplet() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux-gnu"
	}
	return "x86_64-linux-gnu"
}

// Places of a box's key daemon, beside those in its configuration.
const (
	SoftHSMConfig = "/etc/postern/softhsm2.conf"
	keydSuffix    = "-keyd" // behind state of filterd: keyd's own folder
)

// Keyd is keyd.toml of the box, as [token] has it.
func (c *Box) Keyd() *Keyd {
	t := c.Token
	k := &Keyd{
		Module: modules[t.Kind], ModuleConfig: t.ModuleConfig, Token: t.Label, State: c.KeydState(), Clock: c.Clock, Workers: t.Workers, AllowImported: t.AllowImported, AllowWrapped: t.AllowWrapped, WrappedOpen: t.WrappedOpen,
		Socket: Sockets{
			Use:  Socket{Path: c.Key.Socket, Mode: 0o660, Group: "postern-filter"},
			Keep: Socket{Path: c.Key.Keep, Mode: 0o660, Group: "postern"},
		},
		Budget: t.Budget, Rules: t.Rules, Log: c.Log,
	}
	switch t.Kind {
	case "softhsm":
		k.Environment = map[string]string{"SOFTHSM2_CONF": SoftHSMConfig}
	case "tpm":
		k.Environment = map[string]string{"TPM2_PKCS11_STORE": c.TokenDir(), "TPM2_PKCS11_TCTI": "device:/dev/tpmrm0"}
	case "module":
		k.Module, k.Environment = t.Module, t.Environment
	}
	return k
}

// KeydState is where the key daemon keeps what outlives a restart.
func (c *Box) KeydState() string { return c.State + keydSuffix }

// TokenDir is where a token that consists of files has them; they are
// encrypted with the PIN, or by the TPM.
func (c *Box) TokenDir() string { return c.KeydState() + "/token" }

// SoftHSM is the file that names SoftHSM its folder.
func (c *Box) SoftHSM() string {
	return "# Written by `postern box render` from box.toml; what is changed here is lost.\n" +
		"directories.tokendir = " + c.TokenDir() + "\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n"
}

// Text writes a *Filterd or *Keyd as the file of a box: it says what it was made from,
// and was read again.
func Text(c any) (string, error) {
	var b bytes.Buffer
	b.WriteString("# Written by `postern box render` from box.toml; what is changed here is lost.\n\n")
	if err := Write(&b, c); err != nil {
		return "", err
	}
	var err error
	switch c.(type) {
	case *Filterd:
		_, err = parseFilterd("filterd.toml", b.Bytes())
	case *Keyd:
		_, err = parseKeyd("keyd.toml", b.Bytes(), "")
	default:
		err = fmt.Errorf("write file of %T: no daemon reads it", c)
	}
	return b.String(), err
}
