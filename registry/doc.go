// SPDX-License-Identifier: Apache-2.0

// Package registry is a client of OCI distribution registries.
//
// The two types to know are Repository, which resolves, fetches, pushes and
// lists what refers to what, and Blob, which streams ranges of one blob for as
// long as a container needs it: through redirects whose URLs expire, tokens
// that expire, bodies cut short and mirrors that fail.
//
//	c, err := registry.NewClient(registry.Options{})
//	repo, err := c.Repository("docker.io/library/busybox:latest")
//	desc, err := repo.Resolve(ctx, "latest")
//	layer := repo.Blob(manifest.Layers[0])
//	body, err := layer.OpenRange(ctx, off, n)
//
// # Limits
//
// Manifests and referrers lists are bounded to 4 MiB, referrers to 64 pages
// and 16,384 entries, error documents to 8 KiB, response headers to 256 KiB,
// redirects to 10. A body that is waited for must bring 8 KiB a second. Every wait ends with
// its context. Fetch and Open verify size
// and digest of what they return; Blob.ReadAt and OpenRange give bytes that the caller
// verifies. Multipart ranges are never asked for and not understood.
//
// # Decisions
//
//   - oras-go speaks the distribution protocol and authenticates; ranges are
//     ours, because its reader ignores contexts and gives up at the first cut.
//   - http is spoken to a loopback host (localhost, 127.0.0.0/8, ::1) when https
//     is not spoken there, as containerd does. That is asked once per host, with
//     one request, and never of any other host.
//   - The token cache is wrapped: in oras-go a cancelled caller would fail all
//     that wait for the same token.
//   - The old list under a referrers fallback tag is not deleted after an update.
//     Registries that need the tag often refuse deletion, and the push itself has
//     succeeded by then.
//   - Bytes left in an error's body are read up to 8 KiB; then the connection is
//     closed. A dropped connection is cheaper than an endless body.
//   - A registry that ignores ranges is read from the blob's beginning, skipping.
//     A skip above 8 MiB is done once per read, not once per retry.
//   - A wait asked for with Retry-After counts up to Retry.MaxWait: a container
//     waits for its bytes, so a long ban must become an error.
//   - Too slow is as bad as stalled, and both are measured by the time spent in Read: a
//     stream has no other end, and how slowly its reader takes it says nothing of the server.
//   - A page of HTML is never a blob: registries behind a single sign-on answer so for a
//     while. What a redirect led to is remembered for a blob only as long as it makes sense.
//   - Bytes of a range are verified by who reads it, and Distrust is how that gets here:
//     without it a mirror with a damaged copy would be asked again and again.
//   - 401 and 403 both have the token forgotten, once a request: registries differ in what
//     they say of one that has expired, and not all send a challenge with it.
//   - https may redirect to plain http: object stores inside a cluster do, no
//     credential travels there, and digests decide what the bytes are worth.
//   - Errors carry URLs without query and user: signed URLs are secrets.
package registry
