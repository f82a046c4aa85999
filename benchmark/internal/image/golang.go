// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Hello is what the program in the Go image prints.
const Hello = "hello from a compiled program"

const hello = `package main

import (
	"fmt"
	"sort"
	"strings"
)

func main() {
	words := strings.Fields("a compiled from hello program")
	sort.Slice(words, func(i, j int) bool { return strings.Index("hello from a compiled program", words[i]) < strings.Index("hello from a compiled program", words[j]) })
	fmt.Println(strings.Join(words, " "))
}
`

// Go makes an image in dir as a developer's would be: a small base layer, the machine's Go tree as one
// large layer (some 250 MB of files), and a small program on top, in /app, which is the working directory.
func Go(ctx context.Context, dir string) (*Image, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return nil, fmt.Errorf("ask go for its GOROOT: %w", err)
	}
	goroot := strings.TrimSpace(string(out))
	b, err := New(dir)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		b.Layer(Gzip, base),
		b.Layer(Gzip, func(w *tar.Writer) error {
			return errors.Join(AddDir(w, "usr", 0o755), AddDir(w, "usr/local", 0o755), Tree(w, "usr/local/go", goroot))
		}),
		b.Layer(Gzip, func(w *tar.Writer) error {
			return errors.Join(AddDir(w, "app", 0o755),
				AddFile(w, "app/go.mod", 0o644, []byte("module hello\n\ngo 1.21\n")),
				AddFile(w, "app/main.go", 0o644, []byte(hello)))
		}),
	); err != nil {
		return nil, err
	}
	return b.Image(ocispec.ImageConfig{
		Env:        []string{"PATH=/usr/local/go/bin", "HOME=/root", "GOROOT=/usr/local/go", "GOTOOLCHAIN=local", "GOPROXY=off", "GOFLAGS=", "CGO_ENABLED=0"},
		WorkingDir: "/app",
	})
}

// base writes what every base image has.
func base(w *tar.Writer) error {
	var errs []error
	for _, d := range []struct {
		name string
		mode int64
	}{{"dev", 0o755}, {"etc", 0o755}, {"etc/ssl", 0o755}, {"etc/ssl/certs", 0o755}, {"proc", 0o555}, {"root", 0o700}, {"run", 0o755}, {"sys", 0o555}, {"tmp", 0o1777}, {"var", 0o755}, {"var/tmp", 0o1777}} {
		errs = append(errs, AddDir(w, d.name, d.mode))
	}
	errs = append(errs,
		AddFile(w, "etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")),
		AddFile(w, "etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
		AddFile(w, "etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n")))
	// As large as a real base's certificates are, if the machine has them.
	if certs, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt"); err == nil {
		errs = append(errs, AddFile(w, "etc/ssl/certs/ca-certificates.crt", 0o644, certs))
	}
	return errors.Join(errs...)
}
