// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

// minProgress is how many bytes an attempt must bring for the next failure to
// count as the first again: enough that a registry that dribbles is given up.
const minProgress = 64 << 10

// backoff counts the attempts of one operation.
type backoff struct {
	retry   Retry
	attempt int
	total   time.Duration // from the first failure without progress to the last attempt; 0 means no limit
	since   time.Time     // of that failure; zero if there was none
}

func (c *Client) backoff() *backoff { return &backoff{retry: c.opts.Retry} }

// progress tells what an attempt brought.
func (b *backoff) progress(n int64) {
	if n >= minProgress {
		b.attempt, b.since = 0, time.Time{}
	}
}

// next waits before the next attempt. It returns err if there is none: the
// retries or the time for them are used up, err will not pass, or ctx has ended.
func (b *backoff) next(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ended(ctx, err)
	}
	if !temporary(err) || !b.more() {
		return err
	}
	d, now := b.delay(err), time.Now()
	if b.since.IsZero() {
		b.since = now
	}
	if b.total > 0 && now.Add(d).Sub(b.since) > b.total {
		return fmt.Errorf("gave up after %s without progress: %w", now.Sub(b.since).Round(time.Millisecond), err)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ended(ctx, err)
	}
}

// more counts an attempt and reports whether it may be made.
func (b *backoff) more() bool {
	b.attempt++
	return b.attempt <= b.retry.Max
}

// delay doubles with each attempt; half of it is chance, so that nodes which
// failed together do not come back together.
func (b *backoff) delay(err error) time.Duration {
	d := b.retry.MinWait
	for i := 1; i < b.attempt && d < b.retry.MaxWait; i++ {
		d *= 2
	}
	d = min(d, b.retry.MaxWait)
	d = d/2 + rand.N(d/2+1)
	var e *Error
	if errors.As(err, &e) {
		d = max(d, min(e.retryAfter, b.retry.MaxWait))
	}
	return d
}

// retried does op until it succeeds, bounded in number and in time.
func (c *Client) retried(ctx context.Context, op func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, c.opts.Timeouts.Total)
	defer cancel()
	b := c.backoff()
	for {
		err := op(bounded)
		if err == nil {
			return nil
		}
		if werr := b.next(bounded, err); werr != nil {
			return c.gaveUp(ctx, bounded, err)
		}
	}
}

// gaveUp says why an operation ended: the caller's context, the time it may
// take, or its last error.
func (c *Client) gaveUp(ctx, bounded context.Context, err error) error {
	if ctx.Err() == nil && bounded.Err() != nil {
		return fmt.Errorf("gave up after %s: %w", c.opts.Timeouts.Total, err)
	}
	return ended(ctx, err)
}

// parseRetryAfter reads seconds or a date, as of RFC 9110 section 10.2.3. What
// is not understood, or in the past, is 0.
func parseRetryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
