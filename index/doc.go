// SPDX-License-Identifier: Apache-2.0

// Package index is the SOCI index of an image: which zTOC belongs to which layer.
//
// An [Index] is a small manifest that lists zTOCs. [Build] makes one from an image
// manifest in a [Store]; [Convert] makes a SOCI-enabled image of it, in which every
// image manifest names its index; [Find] gets the index of an image from a registry.
//
//	x, desc, err := index.Build(ctx, store, manifest, index.V1, index.BuildOptions{})
//	...
//	for _, layer := range image.Layers {
//		if z, ok := x.ZTOC(layer.Digest); ok {
//			// the layer can be read lazily with the zTOC z
//		}
//	}
//
// # Limits
//
//   - An index has at most [MaxSize] bytes and [MaxLayers] layers; manifests, image
//     indexes and configs have at most [MaxManifestSize] bytes, image indexes nest
//     at most 4 deep and list at most 256 manifests, which have at most 32 MiB together.
//   - Build holds the zTOCs of all layers until the last is made, because nothing may
//     be pushed of an image that fails. Beyond 64 MiB they go to unlinked temporary
//     files; what remains in memory is one [ztoc.Survey] per worker,
//     and the compact zTOC that it is writing.
//   - A prefetch artifact has at most [MaxPrefetchSize] bytes, a profile [MaxProfileSize].
//
// # Decisions
//
//   - Every byte read from a store is bounded by the descriptor and verified against
//     its digest before use, local stores included.
//   - Compact zTOCs are listed behind all that is the incumbent's, so that all before them is
//     as it would be without them, and profiles last. Prefetch artifacts number the spans of
//     the zTOCs 0.9, sorted; a [Profile] is an order of bytes and of use with any zTOC. FORMAT.md
//     describes it. Who attaches one attaches both.
//   - A layer that does not parse is read once more, to tell a layer that is not what its
//     digest promises from one that never was any good.
//   - Order of pushes: zTOCs, prefetch artifacts, compact zTOCs, config, index, converted manifests,
//     image index. What is pushed refers only to what is there already.
//   - A layer that occurs twice in an image is indexed once and listed twice, as the
//     incumbent lists it.
//   - Layers start in order of size, largest first: the longest one decides when the
//     build ends. Events are told in image order nevertheless.
//   - A reused zTOC is fetched, verified and compared with the layer's size and the
//     span size; if anything differs, or if one of two formats is missing, the layer is
//     indexed anew.
//   - Non-distributable gzip layers that are in the store get a zTOC, as with the incumbent.
//   - Convert writes unknown JSON fields back, behind the known ones and sorted;
//     without such fields the bytes are the incumbent's.
//   - Convert writes attestations, SOCI indexes and other artifacts back untouched
//     and re-points the annotations by which they name an image manifest that got a
//     new digest. The incumbent drops those annotations and rewrites those manifests.
//   - Convert lifts the manifests of nested image indexes into the result, so that
//     each can be bound to its index. The incumbent does not convert them.
//   - Of several v1 referrers Find takes the first valid one in order of digest, those with a
//     profile first: the order in which registries list them is not defined, and the
//     index that a profile was attached to stays in the registry.
//   - [FindOptions.Bound] does not ask for referrers, to say whether there are any: the answer
//     would be anybody's, and nothing is done with it.
//   - Files to prefetch are looked up by cleaned name, so that layers whose names
//     begin with "./" work; of duplicate names the last counts, as in tar.
package index
