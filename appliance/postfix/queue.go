package postfix

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"time"
)

// maxQueue is how many waiting mails are looked at.
const maxQueue = 100_000

// Waiting is one mail of the queue.
type Waiting struct {
	ID         string
	Arrived    time.Time
	Sender     string
	Recipients []struct {
		Address string `json:"address"`
		Reason  string `json:"delay_reason"`
	}
}

// Waitings is the queue.
type Waitings []Waiting

// Has reports whether a mail to the address waits.
func (w Waitings) Has(to string) bool {
	return slices.ContainsFunc(w, func(one Waiting) bool {
		for _, r := range one.Recipients {
			if r.Address == to {
				return true
			}
		}
		return false
	})
}

// Oldest is the one that waits longest; zero where none does.
func (w Waitings) Oldest() (oldest Waiting) {
	for _, one := range w {
		if oldest.ID == "" || one.Arrived.Before(oldest.Arrived) {
			oldest = one
		}
	}
	return oldest
}

// Queue lists what waits, as postqueue shows it.
func Queue(ctx context.Context, dir string) (list Waitings, err error) {
	cmd := exec.CommandContext(ctx, "postqueue", "-c", dir, "-j")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if errors.Is(err, exec.ErrNotFound) {
		return nil, ErrMissing
	}
	if err != nil {
		return nil, fmt.Errorf("list queue: %w", err)
	}
	for d := json.NewDecoder(bufio.NewReader(out)); len(list) < maxQueue; {
		var one struct {
			ID         string `json:"queue_id"`
			Arrived    int64  `json:"arrival_time"`
			Sender     string `json:"sender"`
			Recipients []struct {
				Address string `json:"address"`
				Reason  string `json:"delay_reason"`
			} `json:"recipients"`
		}
		if err = d.Decode(&one); err != nil {
			break
		}
		list = append(list, Waiting{one.ID, time.Unix(one.Arrived, 0), one.Sender, one.Recipients})
	}
	io.Copy(io.Discard, out)
	if waited := cmd.Wait(); waited != nil {
		return nil, fmt.Errorf("list queue: %w: %s", waited, bytes.TrimSpace(stderr.Bytes()))
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("list queue: %w", err)
	}
	return list, nil
}
