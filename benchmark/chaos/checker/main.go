// SPDX-License-Identifier: Apache-2.0

// Checker is the program in the containers of chaos: it compares the container's files
// with the truth until it is told to finish.
//
//	checker ROOT TRUTH OUT SEED
//
// Package check has the ways in which it looks, and what it writes to OUT.
//
// # Limits
//
// Built with CGO_ENABLED=0 it needs nothing else in the container.
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/seekoci/seekoci/benchmark/chaos/internal/check"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "checker:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("want ROOT TRUTH OUT SEED, have %q", args)
	}
	seed, err := strconv.ParseUint(args[3], 10, 64)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	return check.Run(check.Options{Root: args[0], Truth: args[1], Out: args[2], Seed: seed})
}
