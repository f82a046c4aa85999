// SPDX-License-Identifier: Apache-2.0

// The names of a stream hold no longer.

#undef BITS
#undef NB
#undef OUT
#undef E
#undef D
#undef IN
#undef SOFT
#undef INMAX
#undef OUTMAX
#undef ARG
#undef EXIT
#undef LAST
#undef next
#undef more
#undef enough
#undef lit
#undef long
#undef long16
#undef short
#undef short16
#undef litexcept
#undef subliteral
#undef dstexcept
#undef length
#undef distance
#undef traced
#undef copy
#undef litend
#undef careful
#undef slack
#undef whole
