package update

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"postern/image"
)

// Bounds of a download.
const (
	maxTile = 256 * 32
	stall   = time.Minute // without a byte
	rounds  = 5           // tries without a byte more
)

// source is where a release is. What comes from there is believed only after it
// was compared with the manifest.
type source interface {
	// small reads a file of at most so many bytes; fs.ErrNotExist where there
	// is none.
	small(ctx context.Context, name string, most int64) ([]byte, error)
	// fetch brings a file of that size to a path, on from what is there; had
	// tells whether it came in more than one piece.
	fetch(ctx context.Context, name string, size int64, to string) (had bool, err error)
	// packed reports whether a file is to be taken compressed.
	packed(name string) bool
}

// source of a release, and the name of a file of it.
func (b *Box) source(from string) (source, string, error) {
	if !strings.Contains(from, "://") {
		return folder{filepath.Dir(from)}, filepath.Base(from), nil
	}
	u, err := url.Parse(from)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, "", fmt.Errorf("%.200q: %w", from, ErrPlain)
	}
	base := path.Base(u.Path)
	client, pause := b.Client, b.pause
	if client == nil {
		client = WebClient(nil)
	}
	if pause == nil {
		pause = wait
	}
	return web{client, u.JoinPath(".."), pause}, base, nil
}

// folder is a release in files.
type folder struct{ dir string }

func (f folder) small(_ context.Context, name string, most int64) ([]byte, error) {
	in, err := os.Open(filepath.Join(f.dir, name))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return atMost(in, name, most)
}

func atMost(r io.Reader, name string, most int64) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("more than %d bytes", most)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return text, nil
}

func (f folder) fetch(ctx context.Context, name string, size int64, to string) (bool, error) {
	in, err := os.Open(filepath.Join(f.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", image.ErrAbsent, err)
	}
	if err != nil {
		return false, err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return false, err
	}
	_, err = io.Copy(out, &alive{ctx: ctx, r: io.LimitReader(in, size+1)})
	return false, errors.Join(err, out.Close())
}

func (f folder) packed(name string) bool {
	_, err := os.Stat(filepath.Join(f.dir, name))
	return errors.Is(err, fs.ErrNotExist)
}

// web is a release on a server.
type web struct {
	client *http.Client
	base   *url.URL // its folder
	pause  func(ctx context.Context, d time.Duration) error
}

// WebClient asks over TLS, follows nobody elsewhere and knows no proxy. Whom TLS
// believes are those authorities, or where they are nil the system's; the release
// itself is believed by its keys only.
func WebClient(authorities *x509.CertPool) *http.Client {
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: authorities}, TLSHandshakeTimeout: 10 * time.Second,
			ResponseHeaderTimeout: 30 * time.Second, MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		},
	}
}

// wait is a pause that ends with its context.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get asks for a file, from a byte on.
func (w web) get(ctx context.Context, name string, from int64) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base.JoinPath(name).String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	r.Header.Set("User-Agent", "postern")
	if from > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	return w.client.Do(r)
}

func (w web) small(ctx context.Context, name string, most int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	answer, err := w.get(ctx, name, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDownload, err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return atMost(answer.Body, name, most)
	case http.StatusNotFound, http.StatusGone:
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%s: status %d: %w", name, answer.StatusCode, ErrDownload)
}

func (web) packed(string) bool { return true }

// fetch tries again while each try brings something, and a few times more. What
// came in more than one piece may be of two files, which its hash will tell.
func (w web) fetch(ctx context.Context, name string, size int64, to string) (had bool, err error) {
	out, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer out.Close()
	for idle, pieces := 0, 0; ; idle++ {
		have, err := out.Seek(0, io.SeekEnd)
		if err != nil {
			return had, err
		}
		had = had || have > 0 && pieces != 1
		if have >= size { // if it is too long, the comparison says so
			return had, out.Sync()
		}
		more, err := w.pull(ctx, out, name, have, size)
		pieces++
		switch {
		case err == nil:
			continue
		case ctx.Err() != nil:
			return had, fmt.Errorf("%s: %w: %w", name, ErrDownload, ctx.Err())
		case errors.Is(err, image.ErrAbsent):
			return had, err
		case more:
			idle = 0
		case idle >= rounds:
			return had, fmt.Errorf("%s: %w: %w", name, ErrDownload, err)
		}
		if err := w.pause(ctx, time.Second<<idle); err != nil {
			return had, fmt.Errorf("%s: %w: %w", name, ErrDownload, err)
		}
	}
}

// pull brings bytes from have on; more tells whether any came. A server that
// does not go on begins anew.
func (w web) pull(ctx context.Context, out *os.File, name string, have, size int64) (more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answer, err := w.get(ctx, name, have)
	if err != nil {
		return false, err
	}
	defer answer.Body.Close()
	switch {
	case answer.StatusCode == http.StatusPartialContent && strings.HasPrefix(answer.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(have, 10)+"-"):
	case answer.StatusCode == http.StatusOK, answer.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		have = 0
		if err := out.Truncate(0); err != nil {
			return false, err
		}
	case answer.StatusCode == http.StatusNotFound, answer.StatusCode == http.StatusGone:
		return false, fmt.Errorf("%s: status %d: %w", name, answer.StatusCode, image.ErrAbsent)
	default:
		return false, fmt.Errorf("status %d", answer.StatusCode)
	}
	if answer.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		return false, fmt.Errorf("status %d", answer.StatusCode)
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return false, err
	}
	watch := time.AfterFunc(stall, cancel)
	defer watch.Stop()
	n, err := io.Copy(out, &alive{ctx: ctx, r: io.LimitReader(answer.Body, size-have+1), watch: watch})
	if err == nil && have+n < size {
		err = io.ErrUnexpectedEOF
	}
	return n > 0, err
}

// alive is a reader that ends with its context, and tells that something came.
type alive struct {
	ctx   context.Context
	r     io.Reader
	watch *time.Timer
}

func (a *alive) Read(b []byte) (int, error) {
	if err := a.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := a.r.Read(b)
	if n > 0 && a.watch != nil {
		a.watch.Reset(stall)
	}
	return n, err
}

// Latest is the manifest of the release that the file latest in a folder of
// releases names. The file is believed by nobody: it can keep a box from what is
// newer, never bring it to what is older.
func (b *Box) Latest(ctx context.Context, source string) (string, error) {
	at, err := url.Parse(source)
	if err != nil {
		return "", fmt.Errorf("%.200q: %w", source, ErrPlain)
	}
	place, base, err := b.source(at.JoinPath("latest").String())
	if err != nil {
		return "", err
	}
	text, err := place.small(ctx, base, 64)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", image.ErrAbsent, err)
	}
	if err != nil {
		return "", err
	}
	v, err := image.ParseVersion(strings.TrimSpace(string(text)))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", base, err)
	}
	return at.JoinPath(image.Name(v) + image.ManifestEnd).String(), nil
}
