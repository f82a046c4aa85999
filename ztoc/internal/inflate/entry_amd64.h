// SPDX-License-Identifier: Apache-2.0

// What both kernels do with an entry, in the names that each gives its registers.

// STEP stores a literal and takes its bits. With anything else it does nothing: its entry
// has no bits to drop and no sign, and what it stores is written over.
#define STEP \
	SHRXQ E, BITS, BITS; \
	SUBL  E, NB; \
	MOVL  E, T; \
	SHRL  $const_entryValue, T; \
	SHRL  $31, E; \
	MOVB  T, (OUT); \
	ADDQ  E, OUT

// LENGTH takes the length of entry E from BITS.
#define LENGTH \
	MOVL  E, E2; \
	SHRL  $const_entryMiddle, E2; \
	MOVQ  BITS, LEN; \
	SHRXQ E2, BITS, BITS; \
	SUBL  E2, NB; \
	SHRQ  $2, LEN; \
	BZHIQ E2, LEN, LEN; \
	MOVL  E, T; \
	SHRL  $const_entryCode, E; \
	SHRL  $const_entryValue, T; \
	SHRXQ E, LEN, LEN; \
	ANDL  $const_entryBase, T; \
	ADDQ  T, LEN

// KEEP, before a refill, makes NB0 go with the IN behind it.
#define KEEP \
	ADDL $56, NB0; \
	MOVL NB, T; \
	ANDL $56, T; \
	SUBL T, NB0
