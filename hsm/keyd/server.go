package keyd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"postern/hsm"
	"postern/hsm/wire"
)

// Limits of the server.
const (
	maxConns   = 64               // on each socket
	inFlight   = 256              // requests under way on one connection; then it is not read
	idle       = 10 * time.Minute // without a frame
	patience   = 10 * time.Second // for the rest of a frame that has begun, and for a reply to be taken
	useLimit   = 60 * time.Second // for one operation of the use socket
	keepLimit  = 10 * time.Minute // key generation on a small card takes minutes
	peerGroups = 59               // SO_PEERGROUPS of Linux 4.13 and later
)

// Listen makes a socket of mode at path, owned by group gid when that is not
// negative. A socket on which a daemon answers is ErrInUse; one that nobody
// answers on is left from a crash and is replaced.
func Listen(path string, mode os.FileMode, gid int) (net.Listener, error) {
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("listen on %s: not a socket", path)
		}
		conn, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			conn.Close()
			return nil, fmt.Errorf("listen on %s: %w (hint: another keyd is running; stop it first)", path, ErrInUse)
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("listen on %s: %w: %w", path, ErrInUse, err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: remove stale socket: %w", path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	err = os.Chmod(path, mode)
	if err == nil && gid >= 0 {
		err = os.Chown(path, -1, gid)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// peer is what the kernel says of the other end.
type peer struct {
	uid  uint32
	gids []uint32
	pid  int32
}

// peerOf asks the kernel who connected: not who holds the socket now, which
// is why a filter must not hand its connection on.
func peerOf(conn *net.UnixConn) (p peer, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return p, err
	}
	var operr error
	err = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err != nil {
			operr = err
			return
		}
		p = peer{uid: cred.Uid, gids: []uint32{cred.Gid}, pid: cred.Pid}
		// Supplementary groups; a kernel without them leaves the primary one.
		var groups [1024]uint32
		size := uint32(unsafe.Sizeof(groups))
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, peerGroups,
			uintptr(unsafe.Pointer(&groups)), uintptr(unsafe.Pointer(&size)), 0)
		if errno == 0 {
			p.gids = append(p.gids, groups[:size/4]...)
		}
	})
	return p, errors.Join(err, operr)
}

// admits reports whether p may speak on a socket.
func (ps Peers) admits(p peer) bool {
	return p.uid == 0 || p.uid == uint32(os.Getuid()) || slices.Contains(ps.UIDs, p.uid) ||
		slices.ContainsFunc(p.gids, func(g uint32) bool { return slices.Contains(ps.GIDs, g) })
}

// serve accepts on l until it is closed, and returns when its last
// connection has ended.
func (k *Keyd) serve(ctx context.Context, l net.Listener, name string, peers Peers, keep bool) error {
	var group sync.WaitGroup
	defer group.Wait()
	slots := make(chan struct{}, maxConns)
	for {
		conn, err := l.Accept()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() || errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED) {
				k.log.Warn("accept", "socket", name, "error", err)
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			return err
		}
		uc, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			return fmt.Errorf("accept: a connection that is not of a Unix socket")
		}
		p, err := peerOf(uc)
		if err != nil || !peers.admits(p) {
			k.log.Warn("peer refused", "socket", name, "uid", p.uid, "pid", p.pid, "error", err)
			conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			k.log.Warn("too many connections", "socket", name, "uid", p.uid, "limit", maxConns)
			conn.Close()
			continue
		}
		group.Go(func() {
			defer func() { <-slots }()
			c := connection{k: k, conn: uc, peer: p, peers: peers, keep: keep, name: name}
			c.serve(ctx)
		})
	}
}

// connection is one client.
type connection struct {
	k     *Keyd
	conn  *net.UnixConn
	peer  peer
	peers Peers
	keep  bool
	name  string

	writing sync.Mutex
}

func (c *connection) serve(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { c.conn.Close() })
	defer stop()
	var group sync.WaitGroup
	defer group.Wait()
	defer c.conn.Close()
	defer cancel() // first: what the client no longer waits for is not begun

	r := wire.NewReader(c.conn)
	slots := make(chan struct{}, inFlight)
	for {
		c.conn.SetReadDeadline(time.Now().Add(idle))
		if err := r.Wait(); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
				c.k.log.Debug("connection ended", "socket", c.name, "uid", c.peer.uid, "error", err)
			}
			return
		}
		c.conn.SetReadDeadline(time.Now().Add(c.k.patience))
		f, err := r.Next()
		if err != nil {
			c.k.log.Warn("connection dropped", "socket", c.name, "uid", c.peer.uid, "error", err)
			return
		}
		work, err := c.dispatch(f)
		if err != nil {
			c.k.log.Warn("connection dropped", "socket", c.name, "uid", c.peer.uid, "op", f.Op.String(), "error", err)
			return
		}
		op, id, trace := f.Op, f.ID, f.Trace
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		group.Go(func() {
			defer func() { <-slots }()
			limit := useLimit
			if op.Keep() {
				limit = keepLimit
			}
			ctx, cancel := context.WithTimeout(hsm.WithTrace(ctx, trace), limit)
			defer cancel()
			c.reply(op, id, work(ctx))
		})
	}
}

// answer is what becomes of a request: an error byte, or bodies of which all
// but the last announce another.
type answer struct {
	err    error
	bodies [][]byte
}

func one(b []byte, err error) answer { return answer{err, [][]byte{b}} }

func list[T any](entries []T, err error, encode func(T) ([]byte, error)) answer {
	var bs [][]byte
	for _, e := range entries {
		if err == nil {
			var b []byte
			b, err = encode(e)
			bs = append(bs, b)
		}
	}
	if err != nil {
		return answer{err: err}
	}
	parts, err := wire.EncodeList(bs)
	return answer{err, parts}
}

// dispatch reads the body of a request, which is gone when the next frame is
// read, and returns the work. Its error ends the connection.
func (c *connection) dispatch(f wire.Frame) (func(context.Context) answer, error) {
	refuse := func(reason error) (func(context.Context) answer, error) {
		return func(ctx context.Context) answer {
			err := reason
			caller{c.k, c.peer.uid}.begin(ctx, f.Op.String(), hsm.KeyID{}).end(&err)
			return answer{err: err}
		}, nil
	}
	if !f.Op.Known() {
		return refuse(hsm.ErrInvalid)
	}
	if (f.Op.Keep() && !c.keep) || !c.peers.admits(c.peer) {
		return refuse(fmt.Errorf("%s on the %s socket: %w", f.Op, c.name, hsm.ErrRefused))
	}
	k := caller{c.k, c.peer.uid}
	switch f.Op {
	case wire.OpKeys:
		return func(ctx context.Context) answer {
			keys, err := k.Keys(ctx)
			return list(keys, err, wire.EncodeKey)
		}, wire.DecodeNothing(f.Body)
	case wire.OpSign:
		m, err := wire.DecodeSign(f.Body)
		return func(ctx context.Context) answer {
			sig, err := k.Sign(ctx, m.ID, m.Alg, m.Digest)
			if err != nil {
				return answer{err: err}
			}
			return one(wire.EncodeSignature(sig))
		}, err
	case wire.OpUnwrap:
		m, err := wire.DecodeUnwrap(f.Body)
		return func(ctx context.Context) answer {
			sk, err := k.Unwrap(hsm.WithOrigin(ctx, m.Origin), m.ID, m.Wrapped)
			if err != nil {
				return answer{err: err}
			}
			defer clear(sk.Key)
			return one(wire.EncodeSessionKey(sk))
		}, err
	case wire.OpStatus:
		return func(ctx context.Context) answer {
			st, err := k.Status(ctx)
			if err != nil {
				return answer{err: err}
			}
			return one(wire.EncodeStatus(st))
		}, wire.DecodeNothing(f.Body)
	case wire.OpInit:
		soPIN, pin, err := wire.DecodeInit(f.Body)
		return func(ctx context.Context) answer { return one(nil, k.Init(ctx, soPIN, pin)) }, err
	case wire.OpUnlock:
		pin, err := wire.DecodeUnlock(f.Body)
		return func(ctx context.Context) answer { return one(nil, k.Unlock(ctx, pin)) }, err
	case wire.OpProbe:
		return func(ctx context.Context) answer {
			probes, err := k.Probe(ctx)
			return list(probes, err, wire.EncodeProbe)
		}, wire.DecodeNothing(f.Body)
	case wire.OpAudit:
		return func(ctx context.Context) answer {
			findings, err := k.Audit(ctx)
			return list(findings, err, wire.EncodeFinding)
		}, wire.DecodeNothing(f.Body)
	case wire.OpGenerate:
		s, err := wire.DecodeSpec(f.Body)
		return func(ctx context.Context) answer {
			key, err := k.Generate(ctx, s)
			if err != nil {
				return answer{err: err}
			}
			return one(wire.EncodeKey(key))
		}, err
	case wire.OpProve:
		m, err := wire.DecodeProve(f.Body)
		return func(ctx context.Context) answer {
			sig, err := k.Prove(ctx, m.ID, m.Info)
			if err != nil {
				return answer{err: err}
			}
			return one(wire.EncodeSignature(sig))
		}, err
	case wire.OpRetire:
		id, err := wire.DecodeID(f.Body)
		return func(ctx context.Context) answer { return one(nil, k.Retire(ctx, id)) }, err
	case wire.OpDestroy:
		id, err := wire.DecodeID(f.Body)
		return func(ctx context.Context) answer { return one(nil, k.Destroy(ctx, id)) }, err
	}
	return refuse(hsm.ErrInvalid)
}

// reply writes the frames of one answer. A client that does not take them
// loses its connection.
func (c *connection) reply(op wire.Op, id uint32, a answer) {
	if a.err != nil {
		a.bodies = [][]byte{nil}
	}
	var out []byte
	for _, b := range a.bodies {
		f := wire.Frame{Op: op | wire.Reply, ID: id, Body: append([]byte{wire.ErrorByte(a.err)}, b...)}
		var err error
		if out, err = f.Append(out); err != nil {
			c.k.log.Error("write reply", "op", op.String(), "error", err)
			c.conn.Close()
			return
		}
		clear(f.Body)
		clear(b)
	}
	defer clear(out)
	c.writing.Lock()
	defer c.writing.Unlock()
	c.conn.SetWriteDeadline(time.Now().Add(c.k.patience))
	if _, err := c.conn.Write(out); err != nil {
		c.conn.Close()
	}
}
