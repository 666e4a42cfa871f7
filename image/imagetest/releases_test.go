package imagetest_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/appliance/e2e/housetest"
	"postern/appliance/trial"
	"postern/hsm/certtest"
	release "postern/image"
)

// publisher makes releases, with keys in a token of its own, and serves them at
// the address that a box calls 10.0.2.2.
type publisher struct {
	dir   string // images, and what makes them believed
	trust string // the keys to believe
	house *trial.Box

	server    *httptest.Server
	authority string // who certified the server

	mu    sync.Mutex
	asked []string // files, each with the range that was asked for
	serve answer   // in place of the file; nil: nothing is
}

// answer answers a request for a file in a way of its own, or returns false.
type answer func(w http.ResponseWriter, r *http.Request, path string) bool

// newPublisher takes up the token that is beside the images, or makes one. The
// images that are built from then on take its releases as updates.
func newPublisher(t *testing.T, dir string, anew bool) *publisher {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{dir: dir, trust: filepath.Join(dir, "trust")}
	keys := filepath.Join(dir, "publisher")
	if anew { // a log names each version once
		for _, d := range []string{keys, p.trust, filepath.Join(dir, "log")} {
			if err := os.RemoveAll(d); err != nil {
				t.Fatal(err)
			}
		}
	}
	if p.house, err = trial.Open(t.Context(), trial.Config{Dir: keys, Bin: "../../bin", Domain: "releases.example"}); err != nil {
		t.Fatal(err)
	}
	housetest.CloseWith(t, p.house)
	if _, err := os.Stat(p.trust); errors.Is(err, fs.ErrNotExist) {
		for _, use := range []string{"release", "log"} {
			p.postern(t, "key", "generate", "--use", use, "--domain", "releases.example")
		}
		p.postern(t, "image", "keys", p.trust)
	}
	t.Setenv("IMAGE_TRUST", p.trust)
	p.listen(t)
	return p
}

func (p *publisher) postern(t *testing.T, args ...string) {
	t.Helper()
	if _, err := p.house.Postern(t.Context(), nil, args...); err != nil {
		t.Fatal(err)
	}
}

// publish signs a version that was built, and puts it into the log.
func (p *publisher) publish(t *testing.T, version string) {
	t.Helper()
	m := filepath.Join(p.dir, "postern_"+version+release.ManifestEnd)
	p.postern(t, "image", "sign", m)
	p.postern(t, "image", "log", m)
	p.postern(t, "image", "verify", m, "--keys", p.trust)
}

// listen serves the folder over TLS, with a certificate that only those believe
// who were told.
func (p *publisher) listen(t *testing.T) {
	t.Helper()
	shown := certtest.SelfSigned(t, certtest.Host("10.0.2.2", "releases.example"))
	p.authority = string(certtest.PEM(shown.Leaf))
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(p.answer))
	p.server.TLS = &tls.Config{Certificates: []tls.Certificate{shown}}
	p.server.StartTLS()
	t.Cleanup(p.server.Close)
}

func (p *publisher) answer(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, strings.TrimSpace(filepath.Base(r.URL.Path)+" "+r.Header.Get("Range")))
	serve := p.serve
	p.mu.Unlock()
	path := filepath.Join(p.dir, filepath.FromSlash(filepath.Clean("/"+r.URL.Path)))
	if serve == nil || !serve(w, r, path) {
		http.ServeFile(w, r, path)
	}
}

// instead has requests answered by serve, where that returns true.
func (p *publisher) instead(serve answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serve, p.asked = serve, nil
}

// ranges are those that were asked for of a file since instead.
func (p *publisher) ranges(end string) (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.asked {
		name, rest, _ := strings.Cut(a, " ")
		if strings.HasSuffix(name, end) {
			list = append(list, rest)
		}
	}
	return list
}

// url is where a box finds the manifest of a version; "": the folder.
func (p *publisher) url(version string) string {
	_, port, _ := net.SplitHostPort(p.server.Listener.Addr().String())
	u := "https://10.0.2.2:" + port + "/"
	if version != "" {
		u += "postern_" + version + release.ManifestEnd
	}
	return u
}

// bent serves the file with that end with one bit changed in its middle.
func bent(t *testing.T, end string) answer {
	return func(w http.ResponseWriter, r *http.Request, path string) bool {
		if !strings.HasSuffix(path, end) {
			return false
		}
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
			return false
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Error(err)
			return false
		}
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(bend{f, info.Size() / 2}, 0, info.Size()))
		return true
	}
}

// bend is a file with one bit changed.
type bend struct {
	io.ReaderAt
	at int64
}

func (b bend) ReadAt(p []byte, off int64) (int, error) {
	n, err := b.ReaderAt.ReadAt(p, off)
	if i := b.at - off; i >= 0 && i < int64(n) {
		p[i] ^= 1
	}
	return n, err
}

// torn serves the first part of the file with that end, and then, once, does
// what next does; the connection ends after it.
func torn(end string, part int64, next func(r *http.Request)) answer {
	var once sync.Once
	return func(w http.ResponseWriter, r *http.Request, path string) (did bool) {
		if !strings.HasSuffix(path, end) {
			return false
		}
		once.Do(func() {
			did = true
			f, err := os.Open(path)
			if err != nil {
				return
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				return
			}
			w.Header().Set("Content-Length", fmt.Sprint(info.Size()))
			io.CopyN(w, f, part)
			w.(http.Flusher).Flush()
			next(r)
		})
		if did {
			panic(http.ErrAbortHandler)
		}
		return false
	}
}
