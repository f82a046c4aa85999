// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// faultSize is the size of the blob that is read under faults, faultAt where a body breaks.
const faultSize, faultAt = 300_000, 100_000

// body is a body that is not what was sent.
type body struct {
	io.Reader
	io.Closer
}

// readerFunc is a reader made of a function.
type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// after is the body of res, at most n bytes of it, and then end.
func after(res *http.Response, n int64, end readerFunc) *http.Response {
	rest := res.Body
	res.Body = body{io.MultiReader(io.LimitReader(rest, n), end), rest}
	return res
}

// answered is the answer of somebody who has not asked the registry.
func answered(req *http.Request, status int, header http.Header, text string) *http.Response {
	if header == nil {
		header = http.Header{}
	}
	return &http.Response{
		Status: fmt.Sprint(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(strings.NewReader(text)), ContentLength: int64(len(text)), Request: req,
	}
}

// fault is something that goes wrong with a request. real asks the registry.
type fault struct {
	name string
	do   func(req *http.Request, real func() (*http.Response, error)) (*http.Response, error)
	// lasting faults are told at once: to ask again is of no use.
	lasting func(stage string) bool
	// harmless faults are none at that stage.
	harmless func(stage string) bool
}

func at(stages ...string) func(string) bool {
	return func(stage string) bool {
		for _, s := range stages {
			if s == stage {
				return true
			}
		}
		return false
	}
}

func status(code int, header http.Header) func(*http.Request, func() (*http.Response, error)) (*http.Response, error) {
	return func(req *http.Request, _ func() (*http.Response, error)) (*http.Response, error) {
		return answered(req, code, header, `{"errors":[{"code":"DENIED","message":"no"}]}`), nil
	}
}

// cut has the body break at n, or in its middle if it is shorter.
func cut(end func(ctx context.Context, rest io.Reader) readerFunc) func(*http.Request, func() (*http.Response, error)) (*http.Response, error) {
	return func(req *http.Request, real func() (*http.Response, error)) (*http.Response, error) {
		res, err := real()
		if err != nil {
			return nil, err
		}
		n := int64(faultAt)
		if res.ContentLength >= 0 {
			n = min(n, res.ContentLength/2)
		} else {
			n = 10
		}
		return after(res, n, end(req.Context(), res.Body)), nil
	}
}

// rewrite changes an answer, whose body it may replace.
func rewrite(change func(res *http.Response)) func(*http.Request, func() (*http.Response, error)) (*http.Response, error) {
	return func(_ *http.Request, real func() (*http.Response, error)) (*http.Response, error) {
		res, err := real()
		if err == nil {
			change(res)
		}
		return res, err
	}
}

// stages are the steps of a pull, each with what is asked for then.
var stages = []string{"token", "manifest", "referrers", "redirect", "range"}

// faults are all that may go wrong with an answer.
func faults() []fault {
	never := func(string) bool { return false }
	always := func(string) bool { return true }
	login := "<html><body><form>Please log in</form></body></html>"
	all := []fault{
		{"refused", func(*http.Request, func() (*http.Response, error)) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		}, never, never},
		{"reset in the body", cut(func(context.Context, io.Reader) readerFunc {
			return func([]byte) (int, error) { return 0, syscall.ECONNRESET }
		}), never, at("redirect")},
		{"short body", cut(func(context.Context, io.Reader) readerFunc {
			return func([]byte) (int, error) { return 0, io.EOF }
		}), never, at("redirect")},
		{"no answer", func(req *http.Request, _ func() (*http.Response, error)) (*http.Response, error) {
			<-req.Context().Done()
			return nil, req.Context().Err()
		}, never, never},
		{"stalled body", cut(func(ctx context.Context, _ io.Reader) readerFunc {
			return func([]byte) (int, error) { <-ctx.Done(); return 0, ctx.Err() }
		}), never, at("redirect")},
		{"slow body", cut(func(ctx context.Context, rest io.Reader) readerFunc {
			return func(p []byte) (int, error) {
				select {
				case <-time.After(20 * time.Millisecond):
					return rest.Read(p[:min(1, len(p))])
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			}
		}), never, at("redirect")},
		{"wrong bytes", rewrite(func(res *http.Response) {
			res.Body = body{io.LimitReader(readerFunc(func(p []byte) (int, error) { return len(p), nil }), max(res.ContentLength, 10)), res.Body}
		}), at("token"), at("redirect", "range")}, // a range's are verified by who asks
		{"page to log in", func(req *http.Request, _ func() (*http.Response, error)) (*http.Response, error) {
			res := answered(req, 200, http.Header{"Content-Type": {"text/html; charset=utf-8"}}, login)
			res.ContentLength = -1
			return res, nil
		}, at("token", "manifest", "referrers"), never},
		{"200 for 206", rewrite(func(res *http.Response) {
			if res.StatusCode == 206 {
				res.StatusCode = 200
				res.Header.Del("Content-Range")
			}
		}), never, at("token", "manifest", "referrers", "redirect")},
		{"other Content-Range", rewrite(func(res *http.Response) { res.Header.Set("Content-Range", "bytes 0-99/100") }), never, at("token", "manifest", "referrers", "redirect")},
	}
	for _, code := range []int{400, 401, 403, 404, 410, 451} {
		lasting := always
		switch code {
		case 401, 403: // anew, with another token
			lasting = at("token")
		case 400, 404, 410: // the URL has expired
			lasting = at("token", "manifest", "referrers", "redirect")
		}
		all = append(all, fault{fmt.Sprint(code), status(code, nil), lasting, never})
	}
	for _, code := range []int{408, 425, 500, 502, 503, 504} {
		all = append(all, fault{fmt.Sprint(code), status(code, nil), never, never})
	}
	for _, after := range []string{"0", "3600", "99999999999999999999", "-5", "soon", "Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"} {
		all = append(all, fault{"429 " + after, status(429, http.Header{"Retry-After": {after}}), never, never})
	}
	return all
}

// sick is a transport whose requests of one stage meet a fault.
type sick struct {
	http.RoundTripper
	main string // host of the registry; others are where it redirects to

	mu    sync.Mutex // guards what follows
	stage string
	fault *fault
	left  int // times that it is met yet; negative: always
	met   int
	count int // requests at all
	hit   func()
}

func (s *sick) set(stage string, f *fault, times int, hit func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stage, s.fault, s.left, s.met, s.count, s.hit = stage, f, times, 0, 0, hit
}

func (s *sick) counts() (met, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.met, s.count
}

func (s *sick) RoundTrip(req *http.Request) (*http.Response, error) {
	stage := ""
	switch path := req.URL.Path; {
	case path == "/token":
		stage = "token"
	case strings.Contains(path, "/manifests/"):
		stage = "manifest"
	case strings.Contains(path, "/referrers/"):
		stage = "referrers"
	case strings.Contains(path, "/blobs/"):
		stage = "redirect"
	case req.URL.Host != s.main:
		stage = "range"
	}
	s.mu.Lock()
	s.count++
	f := s.fault
	if req.Method == http.MethodHead || f == nil || stage != s.stage || s.left == 0 || req.URL.Path == "/v2/" {
		f = nil
	} else {
		s.left--
		s.met++
		if s.hit != nil {
			s.hit()
		}
	}
	s.mu.Unlock()
	if f == nil {
		return s.RoundTripper.RoundTrip(req)
	}
	return f.do(req, func() (*http.Response, error) { return s.RoundTripper.RoundTrip(req) })
}

// patient is a registry with all stages, a client of it through a sick transport, and what
// to ask for.
type patient struct {
	reg      *registrytest.Server
	sick     *sick
	repo     *registry.Repository
	blob     *registry.Blob
	content  []byte
	manifest ocispec.Descriptor
	raw      []byte
	referrer ocispec.Descriptor
}

func newPatient(t *testing.T, retry registry.Retry, timeouts registry.Timeouts) *patient {
	t.Helper()
	p := &patient{reg: start(t, registrytest.Options{Redirect: true, Auth: registrytest.AuthBearer}), content: random(faultSize)}
	p.sick = &sick{RoundTripper: registry.NewTransport(timeouts), main: p.reg.Host()}
	p.repo = open(t, p.reg, registry.Options{Transport: p.sick, Timeouts: timeouts, Retry: retry})
	p.blob = p.repo.Blob(add(t, p.reg, p.content))
	p.raw, p.manifest = manifestOf(t, p.reg, "", nil)
	must[ocispec.Descriptor](t)(p.reg.AddManifest(repoName, "v1", p.manifest.MediaType, p.raw))
	raw, desc := manifestOf(t, p.reg, "application/x.test", &p.manifest)
	p.referrer = must[ocispec.Descriptor](t)(p.reg.AddManifest(repoName, "", desc.MediaType, raw))
	return p
}

// prepare makes sure that the next request passes the stage.
func (p *patient) prepare(stage string) {
	switch stage {
	case "token":
		p.reg.ExpireTokens()
		p.reg.ExpireRedirects()
	case "redirect":
		p.reg.ExpireRedirects()
	}
}

// ask asks for what the stage is about, and compares it.
func (p *patient) ask(ctx context.Context, stage string) error {
	switch stage {
	case "manifest":
		got, err := readAll(p.repo.Fetch(ctx, p.manifest))
		if err == nil && !bytes.Equal(got, p.raw) {
			err = errWrong
		}
		return err
	case "referrers":
		got, err := p.repo.Referrers(ctx, p.manifest, "application/x.test")
		if err == nil && (len(got) != 1 || got[0].Digest != p.referrer.Digest) {
			err = errWrong
		}
		return err
	}
	got, err := readAll(p.blob.OpenRange(ctx, 1000, faultSize-2000))
	if err == nil && !bytes.Equal(got, p.content[1000:faultSize-1000]) {
		err = errWrong
	}
	return err
}

var errWrong = errors.New("not what was asked for")

// impatient returns the timeouts that end the fault soon. Others are longer than a busy
// machine takes for an answer.
func (f *fault) impatient() registry.Timeouts {
	switch f.name {
	case "no answer", "stalled body", "slow body":
		return registry.Timeouts{Header: 600 * time.Millisecond, Stall: 300 * time.Millisecond, Total: time.Minute}
	}
	return registry.Timeouts{Header: 20 * time.Second, Stall: 20 * time.Second, Total: time.Minute}
}

// TestFaults has each fault at each stage: once, for good, until it is over, and until
// nobody waits any more.
func TestFaults(t *testing.T) {
	const retries = 3
	quick := registry.Retry{Max: retries, MinWait: time.Millisecond, MaxWait: 4 * time.Millisecond}
	slow := registry.Retry{Max: 1000, MinWait: time.Hour, MaxWait: time.Hour}
	for _, stage := range stages {
		for _, f := range faults() {
			t.Run(stage+"/"+f.name, func(t *testing.T) {
				t.Parallel()
				p, begin := newPatient(t, quick, f.impatient()), time.Now()
				for _, times := range []int{1, -1} {
					if err := p.ask(t.Context(), stage); err != nil { // no error is remembered
						t.Fatalf("without a fault: %v", err)
					}
					p.prepare(stage)
					p.sick.set(stage, &f, times, nil)
					err := p.ask(t.Context(), stage)
					met, count := p.sick.counts()
					wrong := f.name == "wrong bytes" && stage == "range" // who asks has to see it
					switch fine := f.harmless(stage) || times == 1 && !f.lasting(stage); {
					case met == 0:
						t.Errorf("the fault was not met by any of %d requests", count)
					case wrong && errors.Is(err, errWrong):
					case (err == nil) != fine || errors.Is(err, errWrong):
						t.Errorf("%d times, met by %d of %d requests: %v", times, met, count, err)
					}
					if met > 2*(retries+1) || count > 6*(retries+1) {
						t.Errorf("%d of %d requests met it", met, count)
					}
					p.sick.set("", nil, 0, nil)
				}
				if err := p.ask(t.Context(), stage); err != nil {
					t.Errorf("when it is over: %v", err)
				}
				if d := time.Since(begin); d > time.Minute { // of waits for an hour, were there any
					t.Errorf("took %v", d)
				}
			})
			t.Run(stage+"/"+f.name+", given up", func(t *testing.T) {
				t.Parallel()
				p := newPatient(t, slow, registry.Timeouts{Header: 20 * time.Second, Stall: 20 * time.Second, Total: time.Hour})
				if err := p.ask(t.Context(), stage); err != nil {
					t.Fatal(err)
				}
				p.prepare(stage)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				p.sick.set(stage, &f, -1, cancel)
				err := p.ask(ctx, stage)
				met, _ := p.sick.counts()
				if met > 1 || err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, errWrong) && !f.lasting(stage) {
					t.Errorf("met %d times: %v", met, err)
				}
			})
		}
	}
}
