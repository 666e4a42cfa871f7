package update

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"postern/image"
	"postern/image/releasetest"
)

// shop serves a folder over TLS, badly where it is told to.
type shop struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string // path and range
	answer func(w http.ResponseWriter, r *http.Request) bool
}

func newShop(t *testing.T, w *world) *shop {
	t.Helper()
	s := &shop{}
	files := http.FileServer(http.Dir(w.who.Dir))
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
		s.mu.Unlock()
		if s.answer == nil || !s.answer(rw, r) {
			files.ServeHTTP(rw, r)
		}
	}))
	t.Cleanup(s.Close)
	w.box.Client = s.Client()
	w.box.Client.CheckRedirect = WebClient(nil).CheckRedirect
	return s
}

func (s *shop) url(v image.Version) string { return s.URL + "/" + image.Name(v) + image.ManifestEnd }

// torn is an answer that ends early.
type torn struct {
	http.ResponseWriter
	left int
}

func (t *torn) Write(b []byte) (int, error) {
	if len(b) > t.left {
		n, _ := t.ResponseWriter.Write(b[:t.left])
		t.ResponseWriter.(http.Flusher).Flush()
		t.left -= n
		panic(http.ErrAbortHandler)
	}
	n, err := t.ResponseWriter.Write(b)
	t.left -= n
	return n, err
}

// tearing serves the files of a folder, each answer for name cut off after at
// bytes, as often as times says; from then on whole.
func tearing(dir, name string, at, times int) func(w http.ResponseWriter, r *http.Request) bool {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasSuffix(r.URL.Path, name) || times == 0 {
			return false
		}
		times--
		http.FileServer(http.Dir(dir)).ServeHTTP(&torn{w, at}, r)
		return true
	}
}

// A download that breaks off goes on where it stopped, in one update and in the
// next one; a server that cannot do that begins anew.
func TestDownloadGoesOn(t *testing.T) {
	who := releasetest.New(t)
	publish(t, who, "3", "0")
	size := int64(len(release(t, "3").files[".verity.raw"]))
	t.Run("at once", func(t *testing.T) {
		w := newWorld(t, who)
		s := newShop(t, w)
		s.answer = tearing(who.Dir, ".verity.raw", 1000, 2)
		w.apply(s.url("3"), nil)
		for _, want := range []string{"/postern_3.verity.raw", "/postern_3.verity.raw bytes=1000-", "/postern_3.verity.raw bytes=2000-", "/postern_3.root.raw.gz"} {
			if !slices.Contains(s.asked, want) {
				t.Errorf("got asked %q, want %q among them", s.asked, want)
			}
		}
		if got := w.start(); got != "3" {
			t.Errorf("got %q started, want 3", got)
		}
	})
	t.Run("in the next update", func(t *testing.T) {
		w := newWorld(t, who)
		s := newShop(t, w)
		first := tearing(who.Dir, ".verity.raw", 1000, 1)
		s.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			return first(rw, r) || strings.HasSuffix(r.URL.Path, ".verity.raw") && func() bool { rw.WriteHeader(http.StatusServiceUnavailable); return true }()
		}
		w.apply(s.url("3"), ErrDownload)
		if s, err := w.box.Status(); err != nil || s.Running != "2" || s.Next != "2" || !strings.HasSuffix(s.Last.Outcome, "as it was: release 3: postern_3.verity.raw: download broke off: status 503") {
			t.Errorf("got %+v, %v, want the cause", s, err)
		}
		s.answer, s.asked = nil, nil
		w.apply(s.url("3"), nil)
		if want := "/postern_3.verity.raw bytes=1000-"; !slices.Contains(s.asked, want) || slices.Contains(s.asked, "/postern_3.root.raw.gz") {
			t.Errorf("got asked %q, want %q, and not again what was whole", s.asked, want)
		}
	})
	t.Run("without ranges", func(t *testing.T) {
		w := newWorld(t, who)
		s := newShop(t, w)
		first := tearing(who.Dir, ".verity.raw", 1000, 1)
		s.answer = func(rw http.ResponseWriter, r *http.Request) bool {
			if first(rw, r) {
				return true
			}
			if strings.HasSuffix(r.URL.Path, ".verity.raw") {
				rw.Write(release(t, "3").files[".verity.raw"])
				return true
			}
			return false
		}
		w.apply(s.url("3"), nil)
	})
	t.Run("what is here is of something else", func(t *testing.T) {
		for name, text := range map[string][]byte{"shorter": bytes.Repeat([]byte("x"), 2000), "longer": bytes.Repeat([]byte("x"), int(size)+1), "as long": bytes.Repeat([]byte("x"), int(size))} {
			w := newWorld(t, who)
			s := newShop(t, w)
			if err := os.MkdirAll(w.box.path(stageDir), 0o700); err != nil {
				t.Fatal(err)
			}
			releasetest.Put(t, filepath.Join(w.box.path(stageDir), "postern_3.verity.raw"+came), text)
			if _, err := w.box.Apply(t.Context(), s.url("3"), false); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// The status tells how far an update is while it is at work.
func TestStatusMeanwhile(t *testing.T) {
	who := releasetest.New(t)
	publish(t, who, "3", "0")
	w := newWorld(t, who)
	s := newShop(t, w)
	s.answer = func(http.ResponseWriter, *http.Request) bool {
		if r, err := w.box.record(); err == nil && r.Version != "" {
			w.status("2", "2", "", bringing)
		}
		return false
	}
	seen := 0
	w.box.cut = func(step string) error {
		if step == "veritysetup" {
			w.status("2", "2", "", filling)
			seen++
		}
		return nil
	}
	w.apply(s.url("3"), nil)
	w.status("2", "3", "", entered)
	if seen != 1 {
		t.Errorf("got %d looks while the slot was written, want 1", seen)
	}
}

// Whom a box believes over TLS can be an authority of the site's own.
func TestAuthorityOfOnesOwn(t *testing.T) {
	who := releasetest.New(t)
	publish(t, who, "3", "0")
	w := newWorld(t, who)
	s := newShop(t, w)
	own := x509.NewCertPool()
	own.AddCert(s.Certificate())
	w.box.Client = WebClient(own)
	w.apply(s.url("3"), nil)
	w.status("2", "3", "", entered)
}

// A server that lies, stalls or leads elsewhere gets nothing but a refusal, and
// never more room than the manifest names.
func TestDownloadIsBounded(t *testing.T) {
	who := releasetest.New(t)
	publish(t, who, "3", "0")
	size := len(release(t, "3").files[".verity.raw"])
	for name, c := range map[string]struct {
		path   string
		answer func(w http.ResponseWriter, r *http.Request)
		want   error
	}{
		"endless": {".verity.raw", func(w http.ResponseWriter, r *http.Request) {
			for b := make([]byte, 64<<10); ; {
				if _, err := w.Write(b); err != nil {
					return
				}
			}
		}, image.ErrVerity},
		"a byte more":     {".verity.raw", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, size+1)) }, image.ErrVerity},
		"something else":  {".verity.raw", func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, size)) }, image.ErrVerity},
		"nothing":         {".verity.raw", func(w http.ResponseWriter, r *http.Request) {}, ErrDownload},
		"not there":       {".verity.raw", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, image.ErrAbsent},
		"out of order":    {".verity.raw", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }, ErrDownload},
		"never satisfied": {".verity.raw", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(416) }, ErrDownload},
		"elsewhere": {".verity.raw", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1/", http.StatusFound)
		}, ErrDownload},
		"manifest elsewhere": {image.ManifestEnd, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://127.0.0.1/", http.StatusFound)
		}, ErrDownload},
		"endless manifest": {image.ManifestEnd, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 5<<20)) }, nil},
		"no signature":     {".sig", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) }, image.ErrAbsent},
		"bomb": {".root.raw.gz", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(1<<30))
			w.Write(make([]byte, 1<<20))
		}, image.ErrRoot},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, who)
			s := newShop(t, w)
			s.answer = func(rw http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, c.path) {
					c.answer(rw, r)
					return true
				}
				return false
			}
			_, err := w.box.Apply(t.Context(), s.url("3"), false)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			files, err := filepath.Glob(filepath.Join(w.box.State, stageDir, "*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				if i, err := os.Stat(f); err != nil || i.Size() > 1<<20 {
					t.Errorf("%s: got %d bytes, %v", f, i.Size(), err)
				}
			}
			if got := w.start(); got != "2" {
				t.Errorf("got %q started, want 2", got)
			}
		})
	}
}

// A server whose certificate nobody vouches for is not asked for anything, and a
// download ends with its context.
func TestDownloadOverTLSOnly(t *testing.T) {
	who := releasetest.New(t)
	publish(t, who, "3", "0")
	w := newWorld(t, who)
	s := newShop(t, w)
	trusting := w.box.Client
	w.box.Client = nil
	w.apply(s.url("3"), ErrDownload)
	if len(s.asked) > 0 {
		t.Errorf("got asked %q, want nothing", s.asked)
	}
	w.box.Client = trusting
	ctx, cancel := context.WithCancel(t.Context())
	s.answer = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".verity.raw") {
			cancel()
			<-r.Context().Done()
			return true
		}
		return false
	}
	if _, err := w.box.Apply(ctx, s.url("3"), false); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
