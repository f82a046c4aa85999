// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/distribution/reference"
	"github.com/urfave/cli/v3"

	"github.com/seekoci/seekoci/cmd/internal/version"
	"github.com/seekoci/seekoci/registry"
)

// credentials are those of --user for the registry of name, and of the docker
// config without that flag.
func credentials(cmd *cli.Command, name string) (registry.CredentialFunc, error) {
	user := cmd.String("user")
	if user == "" {
		return registry.DockerCredentials(), nil
	}
	cred, err := registry.ParseUser(user)
	if err != nil {
		return nil, err
	}
	named, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, fmt.Errorf("parse image reference %q: %w", name, err)
	}
	domain := reference.Domain(named)
	return func(_ context.Context, host string) (registry.Credential, error) {
		if host != domain {
			return registry.Credential{}, nil // it was given for one registry
		}
		return cred, nil
	}, nil
}

// repository opens the repository of the image name.
func (e *env) repository(cmd *cli.Command, name string) (*registry.Client, *registry.Repository, error) {
	cred, err := credentials(cmd, name)
	if err != nil {
		return nil, nil, err
	}
	opts := registry.Options{
		PlainHTTP:  cmd.Bool("plain-http"),
		Credential: cred,
		UserAgent:  "soci/" + version.Version,
	}
	if e.debug {
		opts.Transport = tracer{registry.NewTransport(registry.Timeouts{}), e.err}
	}
	c, err := registry.NewClient(opts)
	if err != nil {
		return nil, nil, err
	}
	repo, err := c.Repository(name)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, repo, nil
}

// tracer prints the requests it makes, without their queries, which may be secrets.
type tracer struct {
	next http.RoundTripper
	out  io.Writer
}

// RoundTrip makes the request r.
func (t tracer) RoundTrip(r *http.Request) (*http.Response, error) {
	at := r.URL.Scheme + "://" + r.URL.Host + r.URL.Path
	fmt.Fprintf(t.out, "http req %s %s\n", r.Method, at)
	res, err := t.next.RoundTrip(r)
	if err != nil {
		fmt.Fprintf(t.out, "http res %s %s: %v\n", r.Method, at, err)
		return nil, err
	}
	fmt.Fprintf(t.out, "http res %s %s: %s\n", r.Method, at, res.Status)
	return res, nil
}
