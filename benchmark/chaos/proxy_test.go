// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/seekoci/seekoci/registry/registrytest"
)

// TestProxySpoils holds that each kind of weather does to an answer what its name says, counts it, and ends.
func TestProxySpoils(t *testing.T) {
	reg := registrytest.New(registrytest.Options{Redirect: true})
	defer reg.Close()
	blob := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	desc, err := reg.AddBlob("x", bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	p, err := newProxy(reg.Host(), reg.SecondHost(), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	get := func() (*http.Response, []byte, error) {
		req, err := http.NewRequest(http.MethodGet, "http://"+p.host()+"/v2/x/blobs/"+desc.Digest.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Range", "bytes=100-60099")
		c := http.Client{Transport: &http.Transport{}, Timeout: 300 * time.Millisecond}
		defer c.CloseIdleConnections()
		res, err := c.Do(req)
		if err != nil {
			return nil, nil, err
		}
		defer res.Body.Close()
		if !strings.HasPrefix(res.Request.URL.Host, "127.0.0.1:") || res.Request.URL.Host == reg.SecondHost() {
			t.Errorf("redirected past the proxy, to %s", res.Request.URL.Host)
		}
		got, err := io.ReadAll(res.Body)
		return res, got, err
	}
	good := func() {
		t.Helper()
		if res, got, err := get(); err != nil || res.StatusCode != http.StatusPartialContent || !bytes.Equal(got, blob[100:60100]) {
			t.Errorf("in good weather: %v", err)
		}
	}
	good()
	for _, sh := range shares() {
		if sh.lane != registryLane || sh.kind == expire || sh.kind == registryDown {
			continue
		}
		p.set(weather{sh.kind, 1})
		res, got, err := get()
		switch sh.kind {
		case reset, cutBody, shortBody, stall, slowLoris:
			if err == nil {
				t.Errorf("%s: %d bytes without an error", sh.kind, len(got))
			}
		case wholeBlob:
			if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, blob) {
				t.Errorf("%s: %v", sh.kind, err)
			}
		case wrongRange:
			if err != nil || res.Header.Get("Content-Range") != "bytes 0-0/1" {
				t.Errorf("%s: %v", sh.kind, err)
			}
		case wrongBytes:
			if err != nil || len(got) != 60000 || bytes.Equal(got, blob[100:60100]) {
				t.Errorf("%s: %v", sh.kind, err)
			}
		case loginPage:
			if err != nil || res.StatusCode != http.StatusOK || !bytes.Contains(got, []byte("<html>")) {
				t.Errorf("%s: %v", sh.kind, err)
			}
		case serverError, unavailable, unauthorized, forbidden, notFound, tooMany:
			if err != nil || res.StatusCode < 400 {
				t.Errorf("%s: %v", sh.kind, err)
			}
		default:
			t.Errorf("%s has no test", sh.kind)
		}
		if n := p.spoilt()[sh.kind]; n == 0 {
			t.Errorf("%s was not counted", sh.kind)
		}
		p.set(weather{})
		good()
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if _, _, err := get(); err == nil {
		t.Error("somebody answers while the proxy is down")
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	good()
}
