// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Credential is what a registry host asks for. The zero value is anonymous.
type Credential struct {
	Username, Password string
	RefreshToken       string
}

// CredentialFunc returns the credential for a registry host (host or
// host:port, "docker.io" for Docker Hub). The zero Credential means anonymous.
type CredentialFunc func(ctx context.Context, host string) (Credential, error)

// DockerCredentials returns the credentials of the docker config
// ($DOCKER_CONFIG or ~/.docker/config.json) and its credential helpers. The
// config is read anew each time a registry asks, so that a login takes effect.
func DockerCredentials() CredentialFunc {
	return func(ctx context.Context, host string) (Credential, error) {
		store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
		if err != nil {
			return Credential{}, fmt.Errorf("read docker config: %w", err)
		}
		// Docker Hub's key is https://index.docker.io/v1/.
		cred, err := store.Get(ctx, credentials.ServerAddressFromRegistry(host))
		if err != nil {
			return Credential{}, fmt.Errorf("get credential of %s: %w", host, err)
		}
		return Credential{Username: cred.Username, Password: cred.Password, RefreshToken: cred.RefreshToken}, nil
	}
}

// ChainCredentials asks each of funcs in order and returns the first credential
// that is not anonymous. An error of one does not keep the others from being
// asked; it counts only if none has a credential.
func ChainCredentials(funcs ...CredentialFunc) CredentialFunc {
	return func(ctx context.Context, host string) (Credential, error) {
		var errs []error
		for _, f := range funcs {
			cred, err := f(ctx, host)
			if err != nil {
				errs = append(errs, err)
			} else if cred != (Credential{}) {
				return cred, nil
			}
			if err := ctx.Err(); err != nil {
				return Credential{}, err
			}
		}
		return Credential{}, errors.Join(errs...)
	}
}

// ParseUser reads the form "user:password" or "user" of a command line. The
// password may contain colons.
func ParseUser(s string) (Credential, error) {
	user, password, _ := strings.Cut(s, ":")
	if user == "" {
		return Credential{}, errors.New("parse user: no user name before the colon")
	}
	return Credential{Username: user, Password: password}, nil
}

// hubHost is where docker.io is served.
const hubHost = "registry-1.docker.io"

func orasCredential(f CredentialFunc) auth.CredentialFunc {
	return func(ctx context.Context, host string) (auth.Credential, error) {
		if host == hubHost {
			host = "docker.io"
		}
		c, err := f(ctx, host)
		if err != nil {
			return auth.Credential{}, err
		}
		return auth.Credential{Username: c.Username, Password: c.Password, RefreshToken: c.RefreshToken}, nil
	}
}

// Bounds of the token cache. What goes beyond is fetched again.
const (
	maxTokenHosts = 256
	maxTokens     = 1024 // per host
)

// tokenCache is the token cache of every request: bounded, able to forget, and
// deaf to the cancellation of whoever happened to ask first.
type tokenCache struct {
	mu    sync.Mutex // guards hosts
	hosts map[string]*hostTokens
}

// hostTokens are the tokens of one host.
type hostTokens struct {
	auth.Cache
	set int // guarded by tokenCache.mu
}

func newTokenCache() *tokenCache { return &tokenCache{hosts: make(map[string]*hostTokens)} }

func (t *tokenCache) host(name string) *hostTokens {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[name]
	if h == nil {
		if len(t.hosts) >= maxTokenHosts {
			clear(t.hosts)
		}
		h = &hostTokens{Cache: auth.NewCache()}
		t.hosts[name] = h
	}
	return h
}

// forget drops the tokens of a host and reports whether there were any.
func (t *tokenCache) forget(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.hosts[name]
	delete(t.hosts, name)
	return h != nil && h.set > 0
}

// GetScheme implements auth.Cache.
func (t *tokenCache) GetScheme(ctx context.Context, registry string) (auth.Scheme, error) {
	return t.host(registry).GetScheme(ctx, registry)
}

// GetToken implements auth.Cache.
func (t *tokenCache) GetToken(ctx context.Context, registry string, scheme auth.Scheme, key string) (string, error) {
	return t.host(registry).GetToken(ctx, registry, scheme, key)
}

// Set implements auth.Cache.
func (t *tokenCache) Set(ctx context.Context, registry string, scheme auth.Scheme, key string, fetch func(context.Context) (string, error)) (string, error) {
	h := t.host(registry)
	token, err := h.Set(ctx, registry, scheme, key, func(ctx context.Context) (string, error) {
		token, err := fetch(ctx)
		if err != nil && ctx.Err() != nil {
			return "", ctx.Err() // unwrapped: then the next in the queue fetches for itself
		}
		return token, err
	})
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.set++; h.set > maxTokens && t.hosts[registry] == h {
		delete(t.hosts, registry)
	}
	return token, nil
}
