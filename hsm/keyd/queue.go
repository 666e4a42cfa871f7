package keyd

import (
	"context"
	"fmt"
	"sync"

	"postern/hsm"
)

// depth is how many operations may wait in one queue. Two full queues are
// fewer than one connection may have under way (inFlight), so that a client
// with slow RSA operations only never blocks its own reading of replies.
const depth = 96

// queue is a number of workers with a short line before them. RSA has one and
// the curves have one, so that a slow operation does not hold up a fast one.
type queue struct {
	jobs chan func()
	done <-chan struct{}
}

func newQueue(workers int, done <-chan struct{}, group *sync.WaitGroup) *queue {
	q := &queue{jobs: make(chan func(), depth), done: done}
	for range workers {
		group.Go(func() {
			for {
				select {
				case <-done:
					return
				case job := <-q.jobs:
					job()
				}
			}
		})
	}
	return q
}

// enqueue runs f on a worker of q and waits for it or for ctx, whichever is
// first. A full line is hsm.ErrBusy; f is not called when ctx ended before.
func enqueue[T any](ctx context.Context, q *queue, f func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var zero T
	out := make(chan result, 1)
	job := func() {
		if ctx.Err() != nil {
			return
		}
		v, err := f()
		out <- result{v, err}
	}
	select {
	case <-q.done:
		return zero, hsm.ErrAway
	default:
	}
	select {
	case q.jobs <- job:
	default:
		return zero, hsm.ErrBusy
	}
	select {
	case r := <-out:
		return r.v, r.err
	case <-ctx.Done():
		return zero, fmt.Errorf("%w: %w", hsm.ErrAway, ctx.Err())
	case <-q.done:
		return zero, hsm.ErrAway
	}
}
