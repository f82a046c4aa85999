// SPDX-License-Identifier: Apache-2.0

package registry_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/seekoci/seekoci/registry"
	"github.com/seekoci/seekoci/registry/registrytest"
)

// Read some bytes out of the middle of a blob.
func Example() {
	reg := registrytest.New(registrytest.Options{Redirect: true})
	defer reg.Close()
	desc, err := reg.AddBlob("team/app", strings.NewReader("Hello, lazy world!"))
	if err != nil {
		log.Fatal(err)
	}

	c, err := registry.NewClient(registry.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	repo, err := c.Repository(reg.Host() + "/team/app:v1")
	if err != nil {
		log.Fatal(err)
	}
	p := make([]byte, 4)
	if err := repo.Blob(desc).ReadAt(context.Background(), p, 7); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", p)
	// Output: lazy
}
