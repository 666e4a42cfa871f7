package p11

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"postern/hsm"
	"postern/hsm/hsmtest"
)

// A library that is no module is told with its cause, and crashes nothing.
func TestOpenNoModule(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.so")
	if err := os.WriteFile(text, []byte(strings.Repeat("no library\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	build := func(name, source string) string {
		c, so := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".so")
		if err := os.WriteFile(c, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", so, c).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
		return so
	}
	for _, c := range []struct{ name, module, cause string }{
		{"missing", filepath.Join(dir, "missing.so"), "No such file"},
		{"text", text, "invalid ELF header"},
		{"relative", "libsofthsm2.so", "not absolute"},
		{"empty", "", "not absolute"},
		{"other library", build("other", "int nothing;"), "C_GetFunctionList"},
		{"broken module", build("broken", "unsigned long C_GetFunctionList(void **p) { return 5; }"), "gives no functions"},
		{"empty module", build("nothing", "unsigned long C_GetFunctionList(void **p) { *p = 0; return 0; }"), "gives no functions"},
	} {
		err := New(Config{Module: c.module, Token: "x"}).Open()
		if !errors.Is(err, ErrModule) || !strings.Contains(err.Error(), c.cause) {
			t.Errorf("%s: got %v want %v with %q", c.name, err, ErrModule, c.cause)
		}
		if err := New(Config{Module: c.module}).Check(); !errors.Is(err, ErrModule) {
			t.Errorf("%s: check: got %v want %v", c.name, err, ErrModule)
		}
	}
}

func TestOpenWhichToken(t *testing.T) {
	empty := hsmtest.EmptySoftHSM(t)
	if err := New(config(t, empty)).Open(); !errors.Is(err, hsm.ErrEmpty) {
		t.Errorf("no token: got %v want %v", err, hsm.ErrEmpty)
	}
	f := hsmtest.SoftHSM(t)
	c := config(t, f)
	c.Token = "another"
	if err := New(c).Open(); !errors.Is(err, hsm.ErrEmpty) {
		t.Errorf("foreign token: got %v want %v", err, hsm.ErrEmpty)
	}
	c.Token = ""
	if err := New(c).Open(); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("no label: got %v want %v", err, hsm.ErrInvalid)
	}
	tok := ready(t, f)
	serial := tok.m.token.SerialNumber
	if err := tok.Open(); err != nil {
		t.Errorf("open again: %v", err)
	}
	if err := tok.Login(f.PIN); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("log in again, which would check no PIN: got %v want %v", err, hsm.ErrInvalid)
	}
	tok.Close()

	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", f.Label, "--pin", f.PIN, "--so-pin", f.SOPIN).CombinedOutput()
	if err != nil {
		t.Fatalf("second token: %v\n%s", err, out)
	}
	if err := tok.Open(); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("two tokens with one label: got %v want %v", err, hsm.ErrInvalid)
	}
	byID := ready(t, f, func(c *Config) { c.Token = serial })
	if s, err := byID.Info(); err != nil || s.Serial != serial || s.Token != f.Label || s.State != hsm.Ready || s.Profile != "softhsm" || s.PINCount {
		t.Errorf("open by serial number %s: got %+v, %v", serial, s, err)
	}
}

func TestInit(t *testing.T) {
	for _, c := range []struct {
		name    string
		fixture func(testing.TB) *hsmtest.Fixture
	}{{"softhsm", hsmtest.EmptySoftHSM}, {"nss", hsmtest.EmptyNSS}} {
		t.Run(c.name, func(t *testing.T) {
			f := c.fixture(t)
			tok := New(config(t, f))
			defer tok.Close()
			if err := tok.Open(); !errors.Is(err, hsm.ErrEmpty) {
				t.Fatalf("open before: got %v want %v", err, hsm.ErrEmpty)
			}
			if err := tok.Init(f.SOPIN, ""); !errors.Is(err, hsm.ErrInvalid) {
				t.Errorf("empty PIN: got %v want %v", err, hsm.ErrInvalid)
			}
			if err := tok.Init(f.SOPIN, f.PIN); err != nil {
				t.Fatal(err)
			}
			if s, err := tok.Info(); err != nil || s.State != hsm.Locked || s.Token != f.Label {
				t.Errorf("after init: got %+v, %v, want locked", s, err)
			}
			if _, _, err := tok.Load(); !errors.Is(err, hsm.ErrLocked) {
				t.Errorf("load before login: got %v want %v", err, hsm.ErrLocked)
			}
			if err := tok.Init(f.SOPIN, f.PIN); !errors.Is(err, hsm.ErrExists) {
				t.Errorf("init again: got %v want %v", err, hsm.ErrExists)
			}
			if err := tok.Login(f.PIN); err != nil {
				t.Fatal(err)
			}
			tok.Close()
			if err := tok.Init(f.SOPIN, f.PIN); !errors.Is(err, hsm.ErrExists) {
				t.Errorf("init again, closed: got %v want %v", err, hsm.ErrExists)
			}
			if err := reopen(tok, f.PIN); err != nil {
				t.Errorf("open after init: %v", err)
			}
		})
	}
}

// An Init that broke off between officer and user is taken up again, and a
// wrong officer PIN is tried once.
func TestInitBrokenOff(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.EmptySoftHSM(t))
	tok := New(config(t, s.Fixture))
	defer tok.Close()
	s.Set("C_InitPIN 0x32")
	if err := tok.Init(s.SOPIN, s.PIN); !errors.Is(err, hsm.ErrAway) {
		t.Fatalf("token pulled: got %v want %v", err, hsm.ErrAway)
	}
	s.Set()
	if err := tok.Open(); !errors.Is(err, hsm.ErrEmpty) {
		t.Errorf("open half a token: got %v want %v", err, hsm.ErrEmpty)
	}
	before := s.Calls("C_Login")
	if err := tok.Init("wrong-officer", s.PIN); !errors.Is(err, hsm.ErrPIN) || s.Calls("C_Login") != before+1 {
		t.Errorf("wrong officer PIN: got %v and %d logins, want %v and 1", err, s.Calls("C_Login")-before, hsm.ErrPIN)
	}
	if err := tok.Init(s.SOPIN, s.PIN); err != nil {
		t.Fatal(err)
	}
	if got := s.Calls("C_InitToken"); got != 1 {
		t.Errorf("C_InitToken was called %d times, want 1: a token is wiped never", got)
	}
	if err := tok.Login(s.PIN); err != nil {
		t.Error(err)
	}
}

func TestInitArguments(t *testing.T) {
	f := hsmtest.EmptySoftHSM(t)
	for _, label := range []string{strings.Repeat("x", 33), " x", "x "} {
		c := config(t, f)
		c.Token = label
		if err := New(c).Init(f.SOPIN, f.PIN); !errors.Is(err, hsm.ErrInvalid) {
			t.Errorf("label %q: got %v want %v", label, err, hsm.ErrInvalid)
		}
	}
	if err := New(config(t, f)).Init("1", f.PIN); !errors.Is(err, hsm.ErrInvalid) {
		t.Errorf("short officer PIN: got %v want %v", err, hsm.ErrInvalid)
	}
}

// One Login is one C_Login, whatever the token says, and nothing else in the
// package ever gives a PIN.
func TestLoginOnce(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	for _, c := range []struct {
		name  string
		rule  string
		pin   string
		want  error
		calls int
	}{
		{"right", "", s.PIN, nil, 1},
		{"wrong", "", "wrong-pin", hsm.ErrPIN, 1},
		{"empty", "", "", hsm.ErrPIN, 0},
		{"locked", "C_Login 0xa4", s.PIN, hsm.ErrPIN, 1},
		{"expired", "C_Login 0xa3", s.PIN, hsm.ErrPIN, 1},
		{"incorrect", "C_Login 0xa0", s.PIN, hsm.ErrPIN, 1},
		{"length", "C_Login 0xa2", s.PIN, hsm.ErrPIN, 1},
		{"not set", "C_Login 0x102", s.PIN, hsm.ErrEmpty, 1},
		{"pulled", "C_Login 0x32", s.PIN, hsm.ErrAway, 1},
		{"general", "C_Login 0x05", s.PIN, hsm.ErrAway, 1},
	} {
		tok := New(config(t, s.Fixture))
		if err := tok.Open(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		s.Set(c.rule)
		before := s.Calls("C_Login")
		err := tok.Login(c.pin)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v want %v", c.name, err, c.want)
		}
		if c.want != nil {
			// Whoever goes on without a login gets nothing, and no second try.
			if _, _, err := tok.Load(); !errors.Is(err, hsm.ErrLocked) {
				t.Errorf("%s: load: got %v want %v", c.name, err, hsm.ErrLocked)
			}
			if _, err := tok.Generate(hsm.KeySpec{Algorithm: hsm.P256, Usage: hsm.Sign, Label: "x"}); !errors.Is(err, hsm.ErrLocked) {
				t.Errorf("%s: generate: got %v want %v", c.name, err, hsm.ErrLocked)
			}
		} else {
			generate(t, tok, hsm.P256, hsm.Sign)
		}
		if got := s.Calls("C_Login") - before; got != c.calls {
			t.Errorf("%s: %d logins, want %d", c.name, got, c.calls)
		}
		s.Set()
		tok.Close()
	}
}

// flagRule makes the shim add a flag to what the token says of itself.
func flagRule(flag uint) string { return fmt.Sprintf("C_GetTokenInfo flags 0x%x", flag) }

// A token that says it is locked is not tried at all.
func TestLoginLockedFlag(t *testing.T) {
	s := hsmtest.NewShim(t, hsmtest.SoftHSM(t))
	tok := New(config(t, s.Fixture))
	defer tok.Close()
	if err := tok.Open(); err != nil {
		t.Fatal(err)
	}
	s.Set(flagRule(pkcs11.CKF_USER_PIN_LOCKED))
	if err := tok.Login(s.PIN); !errors.Is(err, hsm.ErrPIN) || s.Calls("C_Login") != 0 {
		t.Errorf("got %v and %d logins, want %v and none", err, s.Calls("C_Login"), hsm.ErrPIN)
	}
	for _, c := range []struct {
		flag uint
		want bool
	}{{pkcs11.CKF_USER_PIN_COUNT_LOW, true}, {pkcs11.CKF_USER_PIN_FINAL_TRY, true}, {pkcs11.CKF_SO_PIN_COUNT_LOW, false}} {
		s.Set(flagRule(c.flag))
		if st, err := tok.Info(); err != nil || st.PINCount != c.want {
			t.Errorf("flag 0x%x: got %t, %v want %t", c.flag, st.PINCount, err, c.want)
		}
	}
}

func TestClosed(t *testing.T) {
	tok := New(config(t, hsmtest.SoftHSM(t)))
	if err := tok.Close(); err != nil {
		t.Errorf("close what was never open: %v", err)
	}
	var id hsm.KeyID
	for name, do := range map[string]func() error{
		"Login":    func() error { return tok.Login("x") },
		"Load":     func() error { _, _, err := tok.Load(); return err },
		"Sign":     func() error { _, err := tok.Sign(id, hsm.ECDSA, make([]byte, 32)); return err },
		"Decrypt":  func() error { _, _, err := tok.Decrypt(id, nil); return err },
		"ECDH":     func() error { _, err := tok.ECDH(id, nil); return err },
		"Generate": func() error { _, err := tok.Generate(hsm.KeySpec{}); return err },
		"Destroy":  func() error { return tok.Destroy(id) },
		"Probe":    func() error { _, err := tok.Probe(); return err },
		"Info":     func() error { _, err := tok.Info(); return err },
		"Health":   func() error { return tok.Health() },
	} {
		if err := do(); !errors.Is(err, hsm.ErrAway) {
			t.Errorf("%s: got %v want %v", name, err, hsm.ErrAway)
		}
	}
}
