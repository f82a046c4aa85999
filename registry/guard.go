// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxRedirects bounds the hops of one request.
const maxRedirects = 10

// sender is http.Client.Do or auth.Client.Do.
type sender func(*http.Request) (*http.Response, error)

// ownHops is the context key of a request that follows redirects itself; its
// value is that request's URL. The token request made on its behalf has the
// same context, and is to follow redirects.
type ownHops struct{}

// checkRedirect is the policy of the authenticating client.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if own, _ := req.Context().Value(ownHops{}).(string); own != "" && own == via[0].URL.String() {
		return http.ErrUseLastResponse
	}
	if len(via) >= maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", ErrProtocol, maxRedirects)
	}
	return nil
}

// guard sends req and watches over it: headers must come in time, and so must
// each piece of the body, and the whole within limit (0 means no limit). The
// answer has any status. Its request carries no secrets.
func (c *Client) guard(req *http.Request, send sender, limit time.Duration) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{ctx: ctx, cancel: cancel, pace: pace{window: c.opts.Timeouts.Stall}, stall: c.opts.Timeouts.Stall}
	w.timer = time.AfterFunc(w.stall, func() { cancel(errStalled) })
	w.timer.Stop() // runs while a Read of the body does
	h := &headerWatch{wait: c.opts.Timeouts.Header}
	h.timer = time.AfterFunc(h.wait, func() { cancel(errHeaderTimeout) })
	if limit > 0 {
		w.limit = time.AfterFunc(limit, func() { cancel(errTimeout) })
	}
	req = req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &sentBody{req.Body, h}
		if get := req.GetBody; get != nil {
			req.GetBody = func() (io.ReadCloser, error) {
				body, err := get()
				return &sentBody{body, h}, err
			}
		}
	}
	res, err := send(req)
	h.stop()
	if err != nil {
		w.end()
		return nil, w.explain(req.Method, req.URL, err)
	}
	if res.Request == nil { // a transport of the caller's that forgot it
		res.Request = req
	}
	shown := *res.Request
	shown.URL = redact(shown.URL)
	w.method, w.url = shown.Method, shown.URL
	res.Request = &shown
	res.Body = &watchedBody{res.Body, w}
	return res, nil
}

// watch ends a request that takes too long.
type watch struct {
	ctx    context.Context // of the request; ends with the body, like the body
	cancel context.CancelCauseFunc
	timer  *time.Timer // of a stalled body
	limit  *time.Timer // of the whole; nil means none
	stall  time.Duration
	pace   pace
	method string
	url    *url.URL
}

func (w *watch) end() {
	w.timer.Stop()
	if w.limit != nil {
		w.limit.Stop()
	}
	w.cancel(nil)
}

// explain makes an *Error of err, with our own cause if we ended the request.
func (w *watch) explain(method string, u *url.URL, err error) error {
	for _, own := range []error{errHeaderTimeout, errStalled, errSlow, errTimeout} {
		if context.Cause(w.ctx) == own {
			return &Error{Method: method, URL: clean(redact(u).String()), Err: own, transport: true}
		}
	}
	return failed(method, u, err)
}

// watchedBody is a response body whose bytes must come in time.
type watchedBody struct {
	io.ReadCloser
	w *watch
}

// Read reads; any error but io.EOF is an *Error.
func (b *watchedBody) Read(p []byte) (int, error) {
	b.w.timer.Reset(b.w.stall)
	begin := time.Now()
	n, err := b.ReadCloser.Read(p)
	b.w.timer.Stop()
	if err == nil && b.w.pace.slow(n, time.Since(begin)) {
		b.w.cancel(errSlow)
		err = errSlow
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	err = b.w.explain(b.w.method, b.w.url, err)
	var e *Error
	if errors.As(err, &e) && e.Status == 0 {
		e.transport = true
	}
	return n, err
}

// Close ends the request.
func (b *watchedBody) Close() error {
	defer b.w.end()
	return b.ReadCloser.Close()
}

// minPace is how many bytes a second a body must bring while it is waited for. Who sends
// less keeps a reader, a connection and memory for as long as it likes.
const minPace = 8 << 10

// pace watches how fast a body comes, in windows of the time that is spent waiting for it.
type pace struct {
	window, spent time.Duration
	bytes         int64
}

// slow counts n bytes that were waited for, and reports whether too few came in a window.
func (p *pace) slow(n int, waited time.Duration) bool {
	p.spent, p.bytes = p.spent+waited, p.bytes+int64(n)
	if p.spent < p.window {
		return false
	}
	slow := float64(p.bytes) < minPace*p.spent.Seconds()
	p.spent, p.bytes = 0, 0
	return slow
}

// headerWatch is the time for headers. It begins anew with each piece of the
// request's body that the transport takes.
type headerWatch struct {
	wait  time.Duration
	mu    sync.Mutex // guards what follows
	timer *time.Timer
	over  bool
}

func (h *headerWatch) kick() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.timer.Reset(h.wait)
	}
}

func (h *headerWatch) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.timer.Stop()
}

// sentBody is a request body that tells when the transport takes from it.
type sentBody struct {
	io.ReadCloser
	watch *headerWatch
}

// Read implements io.Reader.
func (b *sentBody) Read(p []byte) (int, error) {
	b.watch.kick()
	return b.ReadCloser.Read(p)
}

// denied reports whether an answer may be that to a token that has expired: some
// registries say 403 then, others 401 without a word of where to get another.
func denied(res *http.Response) bool {
	return res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden
}

// metadata is the client that oras-go speaks through. It turns failures into
// *Error, 404 excepted, which oras-go reads itself.
type metadata struct{ c *Client }

// Do implements remote.Client.
func (m metadata) Do(req *http.Request) (*http.Response, error) {
	res, err := m.c.guard(req, m.c.auth.Do, 0)
	if err == nil && denied(res) && req.Context().Err() == nil && (req.Method == http.MethodGet || req.Method == http.MethodHead) && m.c.tokens.forget(req.URL.Host) {
		_ = res.Body.Close()
		res, err = m.c.guard(req, m.c.auth.Do, 0)
	}
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 400 && res.StatusCode != http.StatusNotFound {
		return nil, statusError(res)
	}
	// oras-go compares media types of lists with their parameters.
	if ct, _, ok := strings.Cut(res.Header.Get("Content-Type"), ";"); ok {
		res.Header.Set("Content-Type", strings.TrimSpace(ct))
	}
	return res, nil
}
