// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// What a caller can ask of an error with errors.Is, beside errdefs.ErrNotFound.
var (
	// ErrDigest says that content is not what its descriptor promised.
	ErrDigest = errors.New("content does not match its descriptor")
	// ErrRange says that a range is not within the blob.
	ErrRange = errors.New("range not within the blob")
	// ErrTooLarge says that a manifest or list is above its bound.
	ErrTooLarge = errors.New("too large")
	// ErrProtocol says that a registry's answer makes no sense.
	ErrProtocol = errors.New("invalid answer")
)

// Causes of our own for ending a request.
var (
	errHeaderTimeout = errors.New("no answer in time")
	errStalled       = errors.New("body stalled")
	errSlow          = errors.New("body comes too slowly")
	errTimeout       = errors.New("request took too long")
)

const (
	maxErrorBody = 8 << 10 // bytes read of an error document
	maxErrorText = 512     // bytes kept of anyone's message
)

// Error is a request that failed.
type Error struct {
	Method string
	URL    string // without user and query, which may be secret
	Status int    // 0 means that no answer came, or one that makes no sense
	Code   string // of the registry's error document, such as "BLOB_UNKNOWN"; "" if it sent none
	Err    error  // what went wrong, or the message of the error document; may be nil if Status is not 0

	retryAfter time.Duration
	transport  bool // the connection's fault, not the answer's
}

// Error is one line: method, URL, status and reason.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Method + " " + e.URL)
	if e.Status != 0 {
		b.WriteString(": " + strings.TrimSpace(strconv.Itoa(e.Status)+" "+http.StatusText(e.Status)))
	}
	if e.Code != "" {
		b.WriteString(": " + e.Code)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns what went wrong.
func (e *Error) Unwrap() error { return e.Err }

// Is matches the status with the errors of errdefs, and 416 with ErrRange.
func (e *Error) Is(target error) bool {
	switch e.Status {
	case http.StatusNotFound:
		return target == errdefs.ErrNotFound
	case http.StatusUnauthorized:
		return target == errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return target == errdefs.ErrPermissionDenied
	case http.StatusRequestedRangeNotSatisfiable:
		return target == ErrRange
	}
	return false
}

// Temporary reports whether the same request may succeed later.
func (e *Error) Temporary() bool {
	switch e.Status {
	case 0:
		return e.transport && transient(e.Err)
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// transient reports whether a failure of the connection may pass. Only what is
// known to last does not.
func transient(err error) bool {
	var (
		dns      *net.DNSError
		record   tls.RecordHeaderError
		alert    tls.AlertError
		verify   *tls.CertificateVerificationError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.Is(err, http.ErrSchemeMismatch),
		errors.As(err, &record), errors.As(err, &alert), errors.As(err, &verify),
		errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid):
		return false
	}
	return true
}

// temporary reports whether err, or what it wraps, may succeed later.
func temporary(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Temporary()
}

// The parts of a URL that must not be shown, in any text.
var (
	urlUser  = regexp.MustCompile(`://[^\s/"'@]*@`)
	urlQuery = regexp.MustCompile(`\?[^\s"'<>]+`)
)

// clean makes a text of anyone's fit for an error message.
func clean(s string) string {
	if len(s) > 16*maxErrorText {
		s = s[:16*maxErrorText]
	}
	s = urlQuery.ReplaceAllString(urlUser.ReplaceAllString(s, "://"), "?...")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxErrorText {
		s = strings.ToValidUTF8(s[:maxErrorText], "") + "..."
	}
	return s
}

// cause is an error whose text was cleaned.
type cause struct {
	text string
	err  error
}

func (c *cause) Error() string { return c.text }
func (c *cause) Unwrap() error { return c.err }

func scrubbed(err error) error {
	text := err.Error()
	if c := clean(text); c != text {
		return &cause{c, err}
	}
	return err
}

// redact returns u without user and query.
func redact(u *url.URL) *url.URL {
	r := *u
	r.User, r.Fragment, r.RawFragment = nil, "", ""
	r.RawQuery, r.ForceQuery = "", false
	return &r
}

func redactText(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return clean(s)
	}
	return clean(redact(u).String())
}

// failed makes an *Error of whatever a request or oras-go returned.
func failed(method string, u *url.URL, err error) error {
	var (
		own    *Error
		answer *errcode.ErrorResponse
		client *url.Error
	)
	at := clean(redact(u).String())
	switch {
	case errors.As(err, &own):
		return err
	case errors.As(err, &answer):
		e := &Error{Method: answer.Method, URL: clean(redact(answer.URL).String()), Status: answer.StatusCode}
		if len(answer.Errors) > 0 {
			e.Code, e.Err = clean(answer.Errors[0].Code), message(answer.Errors[0].Message)
		}
		return e
	case errors.Is(err, errdef.ErrNotFound):
		return &Error{Method: method, URL: at, Status: http.StatusNotFound}
	case errors.As(err, &client):
		for inner := client; errors.As(client.Err, &inner); client = inner {
		}
		return &Error{Method: strings.ToUpper(client.Op), URL: redactText(client.URL), Err: scrubbed(client.Err), transport: true}
	}
	return &Error{Method: method, URL: at, Err: scrubbed(err), transport: broken(err)}
}

// broken reports whether a body that oras-go was reading has ended before its end.
func broken(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.As(err, &op)
}

func message(s string) error {
	if s = clean(s); s == "" {
		return nil
	}
	return errors.New(s)
}

// statusError reads the error document of an answer and closes it.
func statusError(res *http.Response) *Error {
	defer res.Body.Close()
	e := &Error{
		Method:     res.Request.Method,
		URL:        clean(redact(res.Request.URL).String()),
		Status:     res.StatusCode,
		retryAfter: parseRetryAfter(res.Header.Get("Retry-After"), time.Now()),
	}
	var doc struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxErrorBody))
	if err == nil && json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0 {
		e.Code, e.Err = clean(doc.Errors[0].Code), message(doc.Errors[0].Message)
	}
	return e
}

// protocolError says that an answer makes no sense.
func protocolError(res *http.Response, format string, args ...any) *Error {
	err := fmt.Errorf("%w: %s", ErrProtocol, clean(fmt.Sprintf(format, args...)))
	return &Error{Method: res.Request.Method, URL: clean(redact(res.Request.URL).String()), Err: err}
}

// ended returns why ctx ended, or err if it has not.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
