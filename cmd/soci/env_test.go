// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"os"
	"testing"
)

// TestOpenInputEnds demands that a read of standard input that waits ends with its context, and
// that a pipe whose other end is closed already is read to its end.
func TestOpenInputEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString("layer"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	in, _, err := (&env{in: r}).openInput(ctx, "-")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := io.ReadFull(in, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := io.Copy(io.Discard, in)
		ended <- err
	}()
	cancel()
	if err := <-ended; err == nil {
		t.Error("the read ended without an error")
	}

	if _, err := w.WriteString("more"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	again, _, err := (&env{in: r}).openInput(t.Context(), "-")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	// The first read may have been ended before it took anything.
	if p, err := io.ReadAll(again); err != nil || string(p) != "more" && string(p) != "yermore" {
		t.Errorf("read %q, %v", p, err)
	}
}
