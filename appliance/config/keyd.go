package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Keyd is keyd.toml.
type Keyd struct {
	Module        string `toml:"module" need:"yes" form:"path" doc:"The token's PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so."`
	ModuleConfig  string `toml:"module-config" form:"text" doc:"Parameters for C_Initialize; NSS softokn wants some, other modules none."`
	Token         string `toml:"token" default:"postern" form:"label" doc:"Label or serial number of the token. Slot numbers change and do not count."`
	PINFile       string `toml:"pin-file" form:"path" doc:"File with the PIN in its first line, which nobody else may read. It is tried once. Default: pin in $CREDENTIALS_DIRECTORY; without that, an operator unlocks the token. The PIN itself never stands here."`
	State         string `toml:"state" default:"/var/lib/postern-keyd" form:"path" doc:"Folder of what outlives a restart: retired keys, counted failures, whether the PIN was refused."`
	Clock         string `toml:"clock" form:"path" doc:"File in which postern clock watch notes that a time service has set the clock. Until then, and while somebody has set it otherwise, nothing is signed but handshakes of TLS. Default: none, and a clock is believed that is not before the build of the program."`
	Workers       int    `toml:"workers" default:"4" min:"1" max:"64" doc:"Operations in the module at once; half of them RSA."`
	AllowImported bool   `toml:"allow-imported" doc:"Serve keys of which a copy may exist outside the token."`
	AllowWrapped  bool   `toml:"allow-wrapped" doc:"Serve keys that are kept outside the token as ciphertext that only this token opens, and make them. They lie in the folder wrapped of state; whoever has the token, the PIN and such a file has the use of the key, and backups keep what was destroyed."`
	WrappedOpen   int    `toml:"wrapped-open" default:"8" min:"1" max:"1000" doc:"How many of them are open in the token at a time, and at least one for each worker. The one that was not used for longest is closed."`

	Socket      Sockets           `toml:"socket" doc:"The two ways to the daemon. The kernel says who calls; the daemon's own user and root may always. A socket that systemd hands over is taken in place of its path, with the mode and owner of the unit."`
	Budget      Budget            `toml:"budget" doc:"What anybody can do with one key."`
	Rules       []Rule            `toml:"rule" doc:"Keys that are for some callers only, one table for each pattern. The first that matches decides; keys without a rule are for everybody who may use the socket."`
	Environment map[string]string `toml:"environment" doc:"Environment of the module, set before it is loaded. Names: SOFTHSM2_CONF, OPENSC_CONF, PCSCLITE_CSOCK_NAME, TPM2_PKCS11_STORE, TPM2_PKCS11_TCTI, YUBIHSM_PKCS11_CONF, P11NETHSM_CONFIG_FILE, ChrystokiConfigurationPath, CS_PKCS11_R3_CFG."`
	Log         Log               `toml:"log" doc:"Messages of the daemon, and the audit record of each key operation."`
}

// Sockets is the table [socket].
type Sockets struct {
	Use  Socket `toml:"use" doc:"For the mail filter: list keys, sign, unwrap. Default path: /run/postern/use.sock."`
	Keep Socket `toml:"keep" doc:"For operators: all of that, and initialise, unlock, generate, retire, destroy, audit. Default path: /run/postern/keep.sock."`
}

// Socket is a table of [socket].
type Socket struct {
	Path  string   `toml:"path" form:"socket" doc:"Path of the socket."`
	Mode  Mode     `toml:"mode" default:"0660" doc:"Permission of the socket, in octal; nothing for others."`
	Group string   `toml:"group" form:"group" doc:"Group that owns the socket and may call, by name or number. Default: none."`
	GIDs  []uint32 `toml:"gids" doc:"Further groups that may call, by number."`
	UIDs  []uint32 `toml:"uids" doc:"Users that may call, by number."`
}

// Budget is the table [budget].
type Budget struct {
	Failures       int      `toml:"failures" default:"2000" min:"1" doc:"Unwraps that may fail in a window before further ones are refused; signing goes on."`
	OriginFailures int      `toml:"origin-failures" default:"50" min:"1" doc:"Unwraps for mail of one sending network that may fail in a window, with one key. Beyond, mail from there is not opened and delivered as it came, the token is not asked, and the log warns once. Mail of servers that a listener's allow names, and of this machine, counts for the key alone."`
	Window         Duration `toml:"window" default:"1h" min:"1m" max:"168h" doc:"How long a failure counts."`
	Trickle        Duration `toml:"trickle" default:"1s" min:"10ms" max:"1h" doc:"One unwrap in this time is let through although the failures are used up, so that good mail gets its turn."`
	Rate           int      `toml:"rate" default:"1000" min:"1" doc:"Operations per second."`
	Burst          int      `toml:"burst" default:"5000" min:"1" doc:"Operations at once above the rate."`
}

// Rule is a table of [[rule]].
type Rule struct {
	Label string   `toml:"label" need:"yes" form:"pattern" doc:"Pattern for the labels of keys; * stands for anything but a slash."`
	UIDs  []uint32 `toml:"uids" doc:"Users who may use these keys, by number. Default: none but the daemon's own user and root."`
}

// variables are what modules read. LD_PRELOAD and its like would be another
// program's way in, and the debug switches of modules print PINs.
var variables = []string{
	"SOFTHSM2_CONF",              // SoftHSM
	"OPENSC_CONF",                // smart cards
	"PCSCLITE_CSOCK_NAME",        // pcscd
	"TPM2_PKCS11_STORE",          // tpm2-pkcs11
	"TPM2_PKCS11_TCTI",           //
	"YUBIHSM_PKCS11_CONF",        // YubiHSM 2
	"P11NETHSM_CONFIG_FILE",      // NetHSM
	"ChrystokiConfigurationPath", // Thales Luna
	"CS_PKCS11_R3_CFG",           // Utimaco
}

// check fills in what depends on other fields, and finds what does not fit
// together. credentials is the folder of systemd's credentials, or "".
func (c *Keyd) check(r *reading, credentials string) {
	if c.PINFile == "" && credentials != "" {
		c.PINFile = filepath.Join(credentials, "pin")
	}
	for _, s := range []struct {
		name string
		*Socket
	}{{"use", &c.Socket.Use}, {"keep", &c.Socket.Keep}} {
		if s.Path == "" {
			s.Path = "/run/postern/" + s.name + ".sock"
		}
		if s.Mode&0o007 != 0 {
			r.wrong(r.line("socket", s.name, "mode"), fmt.Sprintf("socket.%s.mode = %q: lets everybody in", s.name, s.Mode), "0660 and a group is what most sites want")
		}
	}
	if c.Socket.Use.Path == c.Socket.Keep.Path {
		r.wrong(r.line("socket", "keep", "path"), "socket.keep.path: is the path of socket.use too", "operators have a socket of their own")
	}
	checkRules(r, c.Rules)
	checkEnvironment(r, c.Environment)
}

// checkRules finds rules that never decide, in the table at path.
func checkRules(r *reading, rules []Rule, path ...any) {
	labels := map[string]bool{}
	for i, rule := range rules {
		if at := append(slices.Clip(path), "rule", i, "label"); labels[rule.Label] {
			r.wrong(r.line(at...), fmt.Sprintf("%s = %q: another rule has it", name(at), rule.Label), "the first one decides")
		}
		labels[rule.Label] = true
	}
}

// checkEnvironment finds variables that no module reads, in the table at path.
func checkEnvironment(r *reading, environment map[string]string, path ...any) {
	for k, v := range environment {
		at := append(slices.Clip(path), "environment", k)
		switch {
		case !slices.Contains(variables, k):
			r.wrong(r.line(at...), name(at)+": no variable of a module", "known: "+strings.Join(variables, ", "))
		case v == "" || strings.ContainsRune(v, 0):
			r.wrong(r.line(at...), name(at)+": want a text, not empty and without NUL", "")
		}
	}
}
