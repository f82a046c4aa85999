// SPDX-License-Identifier: Apache-2.0

// One step of a stream: a literal, if one comes; then a match, or literals.

	// A literal, if it is one. At least 17 bits are there before, 6 behind: hence the
	// refill, the only one, comes before the look-up. 54 bits then.
	STEP
	REFILL
	LOOKUP
	TESTL E, E
	JMI  lit
	MOVL NB, NB0 // for going back: this and IN tell the place of the symbol
	TESTL $const_entryExcept, E
	JNZ  litexcept
	LENGTH
	// 16 bits at most are used: 38 are left. From a subtable it comes with 54.
length:
	MOVL BITS, T
	ANDL $((1<<const_dstTableBits-1)<<2), T
	MOVL (Decoder_dst-Decoder_lit)(D)(T*1), E2
	TESTL $const_entryExcept, E2
	JNZ  dstexcept
	// 38 bits, or 54, less 21: 17 are left for the next iteration.
distance:
	MOVQ BITS, FROM
	SHRXQ E2, BITS, BITS
	SUBL E2, NB
	LOOKUP
	SHRQ $2, FROM
	BZHIQ E2, FROM, FROM
	MOVL E2, T
	SHRL $8, T
	SHRXQ T, FROM, FROM
	SHRL $const_entryValue, E2
	ADDQ FROM, E2
	MOVQ OUT, FROM
	SUBQ E2, FROM
	CMPQ FROM, SOFT
	JCS  traced
	// 64 bytes without asking cover all but one or two matches in a hundred.
copy:
	ADDQ OUT, LEN
	CMPQ E2, $16
	JCS  short
	MOVOU (FROM), X0
	MOVOU X0, (OUT)
	MOVOU 16(FROM), X0
	MOVOU X0, 16(OUT)
	MOVOU 32(FROM), X0
	MOVOU X0, 32(OUT)
	MOVOU 48(FROM), X0
	MOVOU X0, 48(OUT)
	ADDQ $64, OUT
	CMPQ OUT, LEN
	JCS  long
	MOVQ LEN, OUT
next:
