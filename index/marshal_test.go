// SPDX-License-Identifier: Apache-2.0

package index_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/seekoci/seekoci/index"
)

// Digests whose content nobody asks for.
var (
	dgstA = digest.FromString("a")
	dgstB = digest.FromString("b")
	dgstC = digest.FromString("c")
)

const emptyDigest = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

// doc is a small index of version v as the incumbent writes it.
func doc(v int, subject string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",`+
		`"config":{"mediaType":"application/vnd.amazon.soci.index.v%d+json","digest":"%s","size":2},`+
		`"layers":[{"mediaType":"application/octet-stream","digest":"%s","size":7,`+
		`"annotations":{"com.amazon.soci.image-layer-digest":"%s",`+
		`"com.amazon.soci.image-layer-mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",`+
		`"com.amazon.soci.span-size":"4194304"}}]%s,`+
		`"annotations":{"com.amazon.soci.build-tool-identifier":"AWS SOCI CLI v0.2"}}`, v, emptyDigest, dgstA, dgstB, subject)
}

func subjectField() string {
	return fmt.Sprintf(`,"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"%s","size":9}`, dgstC)
}

func sample(v index.Version) *index.Index {
	x := &index.Index{Version: v, Layers: []ocispec.Descriptor{{
		MediaType: index.MediaTypeZTOC, Digest: dgstA, Size: 7, Annotations: map[string]string{
			index.AnnotationLayerDigest:    dgstB.String(),
			index.AnnotationLayerMediaType: ocispec.MediaTypeImageLayerGzip,
			index.AnnotationSpanSize:       "4194304",
		},
	}}}
	if v == index.V1 {
		x.Subject = &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: dgstC, Size: 9}
	}
	return x
}

func TestMarshal(t *testing.T) {
	for v, want := range map[index.Version]string{
		index.V1: doc(1, subjectField()),
		index.V2: doc(2, ""),
	} {
		p, desc, err := sample(v).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if string(p) != want {
			t.Errorf("v%d:\n%s\nwant\n%s", v, p, want)
		}
		if desc.Digest != digest.FromString(want) || desc.Size != int64(len(want)) ||
			desc.MediaType != ocispec.MediaTypeImageManifest || desc.ArtifactType != v.ArtifactType() {
			t.Errorf("v%d: descriptor %v", v, desc)
		}
		x := must(index.Unmarshal(p))(t)
		if x.Version != v || x.BuildTool != "AWS SOCI CLI v0.2" || (x.Subject != nil) != (v == index.V1) {
			t.Errorf("v%d: %+v", v, x)
		}
		if z, ok := x.ZTOC(dgstB); !ok || z.Digest != dgstA {
			t.Errorf("zTOC of %s: %v, %t", dgstB, z, ok)
		}
		if _, ok := x.ZTOC(dgstA); ok {
			t.Errorf("zTOC of %s, which is no layer", dgstA)
		}
	}
}

func TestMarshalRefuses(t *testing.T) {
	noSubject, subject := sample(index.V1), sample(index.V2)
	noSubject.Subject = nil
	subject.Subject = sample(index.V1).Subject
	for name, x := range map[string]*index.Index{
		"no version": {}, "v1 without subject": noSubject, "v2 with subject": subject,
	} {
		if p, _, err := x.Marshal(); err == nil {
			t.Errorf("%s: %s", name, p)
		}
	}
}

func TestZTOCLastWins(t *testing.T) {
	x := sample(index.V2)
	for i, d := range []digest.Digest{dgstB, dgstC} {
		l := x.Layers[0]
		l.Digest = d
		l.MediaType = []string{index.MediaTypeZTOC, "application/vnd.example"}[i]
		x.Layers = append(x.Layers, l)
	}
	if z, ok := x.ZTOC(dgstB); !ok || z.Digest != dgstB {
		t.Errorf("got %v, want the last zTOC, %s", z.Digest, dgstB)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	good := doc(2, "")
	sub := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("%q is not in the sample", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	layer := fmt.Sprintf(`{"mediaType":"a/b","digest":"%s","size":1}`, dgstA)
	for name, p := range map[string]string{
		"empty":                "",
		"null":                 "null",
		"array":                "[]",
		"truncated":            good[:len(good)-1],
		"trailing":             good + "{}",
		"too large":            good + strings.Repeat(" ", index.MaxSize),
		"schema version":       sub(`"schemaVersion":2`, `"schemaVersion":1`),
		"media type":           sub("image.manifest.v1", "image.index.v1"),
		"version":              sub("soci.index.v2", "soci.index.v3"),
		"image":                sub("vnd.amazon.soci.index.v2", "vnd.oci.image.config.v1"),
		"v1 without subject":   sub("soci.index.v2", "soci.index.v1"),
		"v2 with subject":      doc(2, subjectField()),
		"config digest":        sub(emptyDigest, "sha256:44"),
		"zTOC digest":          sub(dgstA.String(), "../../etc/passwd"),
		"zTOC algorithm":       sub(dgstA.String(), "md5:d41d8cd98f00b204e9800998ecf8427e"),
		"negative size":        sub(`"size":7`, `"size":-7`),
		"no size":              sub(`"size":7,`, ""),
		"fractional size":      sub(`"size":7`, `"size":7.5`),
		"huge size":            sub(`"size":7`, `"size":9223372036854775808`),
		"layer digest":         sub(dgstB.String(), "x"),
		"no layer digest":      sub("image-layer-digest", "image-layer-digests"),
		"annotation type":      sub(`"4194304"`, "4194304"),
		"subject digest":       strings.Replace(doc(1, subjectField()), dgstC.String(), "", 1),
		"large prefetch":       sub(`octet-stream","digest":"`+dgstA.String()+`","size":7`, `vnd.amazon.soci.prefetch.v1+json","digest":"`+dgstA.String()+`","size":1048577`),
		"layers":               sub(`"layers":[`, `"layers":[`+strings.Repeat(layer+",", index.MaxLayers)),
		"unknown layer digest": sub(`"layers":[`, `"layers":[{"mediaType":"a/b","digest":"","size":1},`),
	} {
		x, err := index.Unmarshal([]byte(p))
		if !errors.Is(err, index.ErrFormat) {
			t.Errorf("%s: %+v, %v", name, x, err)
		} else if strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 500 {
			t.Errorf("%s: error is not one line: %q", name, err)
		}
	}
}

// TestUnmarshalKeepsUnknown holds that an index may list what this package does not know.
func TestUnmarshalKeepsUnknown(t *testing.T) {
	extra := fmt.Sprintf(`"layers":[{"mediaType":"application/vnd.example","digest":"%s","size":0},`, dgstC)
	x := must(index.Unmarshal([]byte(strings.Replace(doc(2, ""), `"layers":[`, extra, 1))))(t)
	if len(x.Layers) != 2 || x.Layers[0].Digest != dgstC {
		t.Errorf("layers %v", x.Layers)
	}
	if _, ok := x.ZTOC(dgstB); !ok {
		t.Error("the zTOC is lost")
	}
}

// TestUnmarshalMemory holds that a small document cannot make a large one in memory.
func TestUnmarshalMemory(t *testing.T) {
	p := []byte(`{"layers":[` + strings.Repeat("{},", index.MaxSize/3-10) + `{}]}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := index.Unmarshal(p); !errors.Is(err, index.ErrFormat) {
		t.Errorf("error %v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4*index.MaxSize {
		t.Errorf("%d bytes allocated for a document of %d", n, len(p))
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte(doc(1, subjectField())))
	f.Add([]byte(doc(2, "")))
	f.Add([]byte(`{"schemaVersion":2,"layers":[{}]}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		x, err := index.Unmarshal(p)
		if err != nil {
			if !errors.Is(err, index.ErrFormat) {
				t.Fatalf("error does not match ErrFormat: %v", err)
			}
			return
		}
		for _, l := range x.Layers {
			if l.Size < 0 || l.Digest.Validate() != nil {
				t.Fatalf("invalid layer %v", l)
			}
		}
		// What was accepted can be written, and reads back the same.
		q, _, err := x.Marshal()
		if err != nil {
			return // escapes can make it longer than MaxSize
		}
		y, err := index.Unmarshal(q)
		if err != nil {
			t.Fatalf("written again: %v\n%s", err, q)
		}
		if r, _, err := y.Marshal(); err != nil || string(r) != string(q) {
			t.Fatalf("written twice: %v\n%s\n%s", err, q, r)
		}
	})
}
