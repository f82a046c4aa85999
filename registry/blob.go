// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Blob reads ranges of one blob. It is safe for concurrent use and satisfies fs.Source.
type Blob struct {
	repo *Repository
	desc ocispec.Descriptor

	mu    sync.Mutex           // guards what follows
	final map[string]*url.URL  // endpoint host → where its redirects led to
	miss  map[string]time.Time // mirror host → not asked for this blob until then
	sent  sent
}

// Blob returns a ranged reader of the blob desc, whose size must be known. It makes no request.
func (r *Repository) Blob(desc ocispec.Descriptor) *Blob {
	return &Blob{repo: r, desc: desc, final: make(map[string]*url.URL), miss: make(map[string]time.Time)}
}

// Size is the blob's size in bytes.
func (b *Blob) Size() int64 { return b.desc.Size }

// ReadAt fills p with the bytes at off, all of them or an error. It does not
// verify them. It returns soon after ctx ends.
func (b *Blob) ReadAt(ctx context.Context, p []byte, off int64) error {
	if err := b.readAt(ctx, p, off); err != nil {
		return fmt.Errorf("read %d bytes at %d of %s in %s: %w", len(p), off, b.desc.Digest, b.repo.Name(), err)
	}
	return nil
}

func (b *Blob) readAt(ctx context.Context, p []byte, off int64) error {
	if err := checkDescriptor(b.desc); err != nil {
		return err
	}
	if n := int64(len(p)); off < 0 || n > b.desc.Size || off > b.desc.Size-n {
		return fmt.Errorf("blob has %d bytes: %w", b.desc.Size, ErrRange)
	}
	c := b.repo.client
	bounded, cancel := context.WithTimeout(ctx, c.opts.Timeouts.Total)
	defer cancel()
	a := attempts{blob: b, backoff: c.backoff()}
	for len(p) > 0 {
		n, err := a.read(bounded, p, off)
		p, off = p[n:], off+int64(n)
		if len(p) == 0 {
			return nil
		}
		a.backoff.progress(int64(n))
		if err == nil && n < minProgress && !a.backoff.more() {
			return fmt.Errorf("%d bytes missing: %w", len(p), io.ErrUnexpectedEOF)
		}
		if err != nil {
			if werr := a.backoff.next(bounded, err); werr != nil {
				return c.gaveUp(ctx, bounded, err)
			}
		}
	}
	return nil
}

// attempts is one read of a blob, over as many requests as it takes.
type attempts struct {
	blob    *Blob
	backoff *backoff
	skipped bool // a large skip has been made
	keep    bool // an answer of the whole blob is kept as it is
}

// read makes one request for p and returns how much of it came. Less than all
// without an error is an answer of less than was asked for.
func (a *attempts) read(ctx context.Context, p []byte, off int64) (int, error) {
	ans, err := a.open(ctx, span{off, int64(len(p))}, false)
	if err != nil {
		return 0, err
	}
	defer ans.body.Close()
	n, err := io.ReadFull(ans.body, p[:min(int64(len(p)), ans.n)])
	if err != nil {
		return n, a.blob.broken(ans, err)
	}
	return n, nil
}

// broken makes an error of a body that ended early.
func (b *Blob) broken(ans *answer, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = &Error{Method: http.MethodGet, URL: ans.url, Err: io.ErrUnexpectedEOF, transport: true}
	}
	if ans.from.mirror {
		b.repo.client.health.failed(ans.from.host)
	}
	return err
}

// endpoint is a host that may have the blob.
type endpoint struct {
	host   string
	mirror bool
	base   *url.URL // of the blob
	limit  time.Duration
	header http.Header
}

// endpoints lists the mirrors that are worth asking, and the origin.
func (b *Blob) endpoints(ctx context.Context) ([]endpoint, error) {
	c, host := b.repo.client, b.repo.ref.Host()
	var eps []endpoint
	if c.opts.Mirrors != nil {
		for _, m := range c.opts.Mirrors(b.repo.ref.Registry) {
			if !c.health.well(m.Host) || b.misses(m.Host) {
				continue
			}
			plain := m.PlainHTTP
			if !plain {
				var err error
				if plain, err = c.plainHTTP(ctx, m.Host); err != nil {
					if ctx.Err() != nil {
						return nil, err
					}
					c.health.failed(m.Host)
					continue
				}
			}
			u := b.repo.url(plain, "blobs", b.desc.Digest.String())
			u.Host, u.RawQuery = m.Host, url.Values{"ns": {b.repo.ref.Registry}}.Encode()
			eps = append(eps, endpoint{m.Host, true, u, m.Timeout, m.Header})
		}
	}
	plain, err := c.plainHTTP(ctx, host)
	if err != nil {
		return nil, err
	}
	return append(eps, endpoint{host: host, base: b.repo.url(plain, "blobs", b.desc.Digest.String())}), nil
}

// open asks the mirrors and then the origin for sp, or for all of the blob. The
// answer's body starts at sp.off. With a.keep it may be all of the blob instead, if
// nobody has an answer for sp.
func (a *attempts) open(ctx context.Context, sp span, whole bool) (*answer, error) {
	b := a.blob
	eps, err := b.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	var all *answer
	for _, ep := range eps {
		var ans *answer
		if ans, err = a.openAt(ctx, ep, sp, whole); err == nil {
			if ep.mirror {
				b.repo.client.health.recovered(ep.host)
			}
			switch {
			case !a.keep || !ans.all:
				b.pass(all)
				return ans, nil
			case all == nil:
				all = ans
			default:
				_ = ans.body.Close() // one is enough
			}
			continue
		}
		if ctx.Err() != nil {
			if all != nil {
				_ = all.body.Close()
			}
			return nil, ctx.Err()
		}
		if ep.mirror {
			b.turnFrom(ep.host, err)
		}
	}
	if all != nil {
		return all, nil
	}
	return nil, err
}

// pass declines an answer of the whole blob, as somebody else answers ranges. all may be nil.
func (b *Blob) pass(all *answer) {
	if all == nil {
		return
	}
	_ = all.body.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.miss[all.from.host] = time.Now().Add(missFor)
}

func (a *attempts) openAt(ctx context.Context, ep endpoint, sp span, whole bool) (*answer, error) {
	header := http.Header{"Accept-Encoding": {"identity"}}
	if !whole {
		header.Set("Range", sp.header())
	}
	res, ans, err := a.ask(ctx, ep, header, sp, whole)
	if err != nil {
		return nil, err
	}
	ans.from = ep
	if ans.skip > maxSkip && a.skipped && !a.keep {
		err = protocolError(res, "ranges are ignored")
	} else if ans.skip > 0 && !a.keep {
		a.skipped = a.skipped || ans.skip > maxSkip
		if _, serr := io.CopyN(io.Discard, res.Body, ans.skip); serr != nil {
			err = a.blob.broken(ans, serr)
		}
	}
	if err != nil {
		_ = res.Body.Close()
		return nil, err
	}
	if ans.all && a.keep {
		sp = span{0, a.blob.desc.Size}
	}
	a.blob.note(ep, sp)
	return ans, nil
}

// ask asks ep, and makes sense of the answer. Where a redirect of before has led to one
// that makes none, such as a page to log in on, ep is asked for a new one.
func (a *attempts) ask(ctx context.Context, ep endpoint, header http.Header, sp span, whole bool) (*http.Response, *answer, error) {
	for again := false; ; again = true {
		led := a.blob.remembered(ep.host)
		res, err := a.blob.ask(ctx, ep, header)
		if err != nil {
			return nil, nil, err
		}
		ans, err := accept(res, sp, a.blob.desc.Size, whole)
		if err == nil {
			return res, ans, nil
		}
		_ = res.Body.Close()
		a.blob.forgetAll(ep.host)
		if led == nil || again || ctx.Err() != nil {
			return nil, nil, err
		}
	}
}

// ask sends the request to where ep's redirects led before, else to ep. A URL
// that was redirected to and works no more is forgotten, and ep asked again.
func (b *Blob) ask(ctx context.Context, ep endpoint, header http.Header) (*http.Response, error) {
	if u := b.remembered(ep.host); u != nil {
		res, err := b.follow(ctx, ep, u, header)
		if err == nil || ctx.Err() != nil {
			return res, err
		}
		var e *Error
		if !errors.As(err, &e) || e.Status == http.StatusRequestedRangeNotSatisfiable {
			return nil, err
		}
		b.forget(ep.host, u)
		switch e.Status {
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		default:
			return nil, err // the next attempt asks ep
		}
	}
	return b.follow(ctx, ep, ep.base, header)
}

// follow sends the request to u and follows redirects. Credentials and the
// headers of ep go to ep's own origin only.
func (b *Blob) follow(ctx context.Context, ep endpoint, u *url.URL, header http.Header) (*http.Response, error) {
	c := b.repo.client
	fresh := false
	for range maxRedirects + 1 {
		res, err := b.hop(ctx, ep, u, header)
		if err != nil {
			return nil, err
		}
		switch {
		case res.StatusCode == http.StatusOK, res.StatusCode == http.StatusPartialContent:
			b.remember(ep, u)
			return res, nil
		case denied(res) && !fresh && ctx.Err() == nil && sameOrigin(u, ep.base) && c.tokens.forget(u.Host):
			fresh = true
			_ = res.Body.Close()
			continue
		case res.StatusCode < 300 || res.StatusCode >= 400 || res.StatusCode == http.StatusNotModified:
			return nil, statusError(res)
		}
		next, err := u.Parse(res.Header.Get("Location"))
		_ = res.Body.Close()
		if err != nil || res.Header.Get("Location") == "" || next.Host == "" || next.Scheme != "http" && next.Scheme != "https" {
			return nil, protocolError(res, "redirect to nowhere")
		}
		u = next
	}
	return nil, &Error{Method: http.MethodGet, URL: redactText(ep.base.String()), Err: fmt.Errorf("%w: more than %d redirects", ErrProtocol, maxRedirects)}
}

func (b *Blob) hop(ctx context.Context, ep endpoint, u *url.URL, header http.Header) (*http.Response, error) {
	c := b.repo.client
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, failed(http.MethodGet, u, err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if !sameOrigin(u, ep.base) {
		req.Header.Set("User-Agent", c.opts.UserAgent)
		return c.guard(req, c.bare.Do, ep.limit)
	}
	for k, v := range ep.header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	ctx = auth.AppendRepositoryScope(ctx, b.repo.ref, auth.ActionPull)
	if ep.mirror {
		ctx = auth.AppendScopesForHost(ctx, ep.host, auth.ScopeRepository(b.repo.ref.Repository, auth.ActionPull))
	}
	ctx = context.WithValue(ctx, ownHops{}, req.URL.String())
	return c.guard(req.WithContext(ctx), c.auth.Do, ep.limit)
}

// sameOrigin reports whether two URLs have scheme, host and port in common.
func sameOrigin(a, b *url.URL) bool { return a.Scheme == b.Scheme && a.Host == b.Host }

func (b *Blob) remembered(host string) *url.URL {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.final[host]
}

func (b *Blob) remember(ep endpoint, u *url.URL) {
	if u == ep.base {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.final[ep.host] = u
}

// forgetAll drops where the redirects of an endpoint led to.
func (b *Blob) forgetAll(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.final, host)
}

// forget drops u unless another has taken its place.
func (b *Blob) forget(host string, u *url.URL) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.final[host] == u {
		delete(b.final, host)
	}
}
