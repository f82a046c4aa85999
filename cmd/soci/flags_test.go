// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
)

func manifestsOf(t *testing.T, names ...string) []index.PlatformManifest {
	t.Helper()
	var list []index.PlatformManifest
	for _, name := range names {
		bare := strings.TrimSuffix(name, "?")
		p, err := platforms.Parse(bare)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, index.PlatformManifest{
			Manifest: ocispec.Descriptor{Digest: digest.FromString(bare)}, Platform: p, Missing: bare != name,
		})
	}
	return list
}

func TestSelection(t *testing.T) {
	image := []string{"linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/386?", "linux/s390x"}
	for _, tt := range []struct {
		all  bool
		want []string // platforms asked for
		got  string   // platforms found, or a part of the error
		err  bool
	}{
		{all: true, got: "linux/arm/v6 linux/arm/v7 linux/arm64 linux/s390x"},
		{want: []string{"linux/arm64"}, got: "linux/arm64"},
		{want: []string{"linux/s390x", "linux/arm64"}, got: "linux/s390x linux/arm64"},
		{want: []string{"linux/arm/v7"}, got: "linux/arm/v7"},
		{want: []string{"linux/386"}, got: "pull that platform first", err: true},
		{want: []string{"linux/riscv64"}, got: "no manifest for platform linux/riscv64", err: true},
	} {
		s := selection{all: tt.all}
		for _, name := range tt.want {
			p, err := platforms.Parse(name)
			if err != nil {
				t.Fatal(err)
			}
			s.list = append(s.list, p)
		}
		picked, err := s.of("img", manifestsOf(t, image...))
		if tt.err {
			if err == nil || !strings.Contains(err.Error(), tt.got) || !strings.Contains(err.Error(), "img") {
				t.Errorf("%v: error %v, want %q", tt.want, err, tt.got)
			}
			continue
		}
		var got []string
		for _, m := range picked {
			got = append(got, platforms.Format(m.Platform))
		}
		if err != nil || strings.Join(got, " ") != tt.got {
			t.Errorf("%v: %v, %v, want %s", tt.want, got, err, tt.got)
		}
	}
	if _, err := (selection{all: true}).of("img", manifestsOf(t, "linux/386?")); err == nil {
		t.Error("an image of which nothing is there was taken")
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":           "plain",
		"a\nb\r\n\nc\n":   "a; b; c",
		"\n":              "",
		"two words\nthen": "two words; then",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCheckDestination(t *testing.T) {
	for dest, ok := range map[string]bool{
		"example.com/a:b":                       true,
		"a:b":                                   true,
		"localhost:5000/a":                      false,
		"example.com/a":                         false,
		"Example.com/A:b c":                     false,
		"a:b@" + digest.FromString("").String(): false,
	} {
		err := checkDestination(dest)
		if (err == nil) != ok {
			t.Errorf("%s: %v", dest, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), `the destination image must be a tagged ref of the form "registry/repository:tag": `) {
			t.Errorf("%s: %v", dest, err)
		}
	}
}

// roundTrip is a transport made of its one method.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestTracer demands that no secret of a request is printed.
func TestTracer(t *testing.T) {
	var out strings.Builder
	for _, f := range []roundTrip{
		func(*http.Request) (*http.Response, error) {
			return &http.Response{Status: "307 Temporary Redirect", Body: io.NopCloser(strings.NewReader(""))}, nil
		},
		func(*http.Request) (*http.Response, error) { return nil, errors.New("refused") },
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://u:hush@host/v2/x?sig=hush", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Basic hush")
		res, err := tracer{f, &out}.RoundTrip(r)
		if err == nil {
			res.Body.Close()
		}
	}
	const want = "http req GET https://host/v2/x\nhttp res GET https://host/v2/x: 307 Temporary Redirect\n" +
		"http req GET https://host/v2/x\nhttp res GET https://host/v2/x: refused\n"
	if out.String() != want {
		t.Errorf("trace %q, want %q", out.String(), want)
	}
}
