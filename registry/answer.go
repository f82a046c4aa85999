// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// maxSkip is how many bytes before the wanted ones may be read and dropped
// again and again, when ranges are ignored. A larger skip is made once per read.
const maxSkip = 8 << 20

// span is a part of a blob, half-open.
type span struct{ off, n int64 }

// header is the span as a Range header, as of RFC 9110 section 14.1.2.
func (s span) header() string {
	return "bytes=" + strconv.FormatInt(s.off, 10) + "-" + strconv.FormatInt(s.off+s.n-1, 10)
}

// answer is a body that has wanted bytes.
type answer struct {
	body io.ReadCloser
	url  string // redacted
	from endpoint
	skip int64 // bytes before the wanted ones
	n    int64 // wanted bytes that follow, at most as many as were asked for
	all  bool  // the whole blob came, though only a part of it was asked for
}

// accept finds out which bytes an answer of status 200 or 206 has. size is that
// of the blob; whole says that no range was asked for.
func accept(res *http.Response, sp span, size int64, whole bool) (*answer, error) {
	ans := &answer{body: res.Body, url: clean(res.Request.URL.String())}
	cr := res.Header.Get("Content-Range")
	if whole && res.StatusCode != http.StatusOK {
		return nil, protocolError(res, "status %d without a range asked for", res.StatusCode)
	}
	if res.StatusCode == http.StatusOK && cr == "" && isHTML(res) && res.ContentLength != size {
		return nil, protocolError(res, "a page of HTML, not a blob")
	}
	if res.StatusCode == http.StatusOK && (whole || !partial(res, cr, size)) {
		if res.ContentLength >= 0 && res.ContentLength != size {
			return nil, protocolError(res, "Content-Length is %d, want %d", res.ContentLength, size)
		}
		ans.skip, ans.n, ans.all = sp.off, sp.n, sp.n < size
		return ans, nil
	}
	got, total, err := parseContentRange(cr)
	switch {
	case err != nil:
		return nil, protocolError(res, "%v", err)
	case got.off != sp.off:
		return nil, protocolError(res, "Content-Range %q, want offset %d", cr, sp.off)
	case total >= 0 && total != size:
		return nil, protocolError(res, "Content-Range %q, want a total of %d", cr, size)
	case got.n > size-got.off:
		return nil, protocolError(res, "Content-Range %q ends after the blob of %d bytes", cr, size)
	case res.ContentLength >= 0 && res.ContentLength != got.n:
		return nil, protocolError(res, "Content-Range %q with Content-Length %d", cr, res.ContentLength)
	}
	ans.n = min(got.n, sp.n)
	return ans, nil
}

// isHTML reports whether an answer is a page, such as one to log in on: of unknown length
// it would pass for a blob that is sent from its beginning.
func isHTML(res *http.Response) bool {
	t, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	return err == nil && t == "text/html"
}

// partial reports whether an answer of status 200 is in truth a part: some
// caches send Content-Range with the wrong status.
func partial(res *http.Response, contentRange string, size int64) bool {
	return contentRange != "" && res.ContentLength >= 0 && res.ContentLength != size
}

// parseContentRange reads "bytes first-last/total", as of RFC 9110 section 14.4.
// total is -1 if it is "*".
func parseContentRange(s string) (sp span, total int64, err error) {
	bad := func() (span, int64, error) {
		if s == "" {
			return span{}, 0, fmt.Errorf("Content-Range is missing")
		}
		return span{}, 0, fmt.Errorf("Content-Range %q is malformed", s)
	}
	unit, rest, _ := strings.Cut(s, " ")
	if !strings.EqualFold(unit, "bytes") {
		return bad()
	}
	part, of, ok := strings.Cut(rest, "/")
	first, last, ok2 := strings.Cut(part, "-")
	a, ok3 := parseOffset(first)
	b, ok4 := parseOffset(last)
	if !ok || !ok2 || !ok3 || !ok4 || b < a {
		return bad()
	}
	total = -1
	if of != "*" {
		if total, ok = parseOffset(of); !ok || b >= total {
			return bad()
		}
	}
	return span{a, b - a + 1}, total, nil
}

// parseOffset reads digits alone; offsets that could overflow by one are refused.
func parseOffset(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 62)
	return int64(n), err == nil
}
