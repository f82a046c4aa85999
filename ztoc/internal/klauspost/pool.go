// SPDX-License-Identifier: Apache-2.0

package klauspost

import "sync"

// Pool keeps idle Resumers. Its zero value is ready, and it is safe for
// concurrent use.
type Pool struct {
	pool sync.Pool
}

// Get returns an idle Resumer or a new one.
func (p *Pool) Get() *Resumer {
	if z, ok := p.pool.Get().(*Resumer); ok {
		return z
	}
	return NewResumer()
}

// Put releases z's input and keeps z.
func (p *Pool) Put(z *Resumer) {
	z.Release()
	p.pool.Put(z)
}
