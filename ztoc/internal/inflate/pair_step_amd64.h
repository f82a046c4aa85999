// SPDX-License-Identifier: Apache-2.0

// One step of a stream: a literal, if one comes, another, then whatever comes, without
// asking what it is: a literal is a match of one byte with table identity.

	// Two literals take 22 bits; a match of more than 31 is rare.
	CMPB NB, $24
	JCS  more
enough:
	STEP
	// As LOOKUP and STEP, with the literal loaded by itself.
	MOVL BITS, T
	ANDL $((1<<const_litTableBits-1)<<2), T
	MOVL (D)(T*1), E
	MOVBLZX (const_entryValue/8)(D)(T*1), T
	SHRXQ E, BITS, BITS
	SUBL E, NB
	SHRL $31, E
	MOVB T, (OUT)
	ADDQ E, OUT
	REFILL
	MOVL BITS, T
	ANDL $((1<<const_litTableBits-1)<<2), T
	MOVL (D)(T*1), E
	MOVBLZX (const_entryMiddle/8)(D)(T*1), E2
	MOVWLZX (const_entryValue/8)(D)(T*1), T
	TESTL E, LAST // that was a literal, then this is the sixth in a row at least
	JMI  lit
	MOVL E, LAST
	MOVL NB, NB0 // for going back: this and IN tell the place of the symbol
	TESTL $const_entryExcept, E
	JNZ  litexcept
	// The length; of a literal, its value.
	RORXQ $2, BITS, LEN
	BZHIQ E2, LEN, LEN
	SHRXQ E2, BITS, BITS
	SUBL E2, NB
	MOVL E, E2
	SHRL $const_entryCode, E2
	SHRXQ E2, LEN, LEN
	ANDL $const_entryBase, T
	ADDQ T, LEN
	// 16 bits at most are used: 38 are left. From a subtable it comes with 54.
length:
	MOVL BITS, T
	ANDL $((1<<const_dstTableBits-1)<<2), T
	MOVL (Decoder_dst-Decoder_lit)(D)(T*1), E2
	MOVBLZX (Decoder_dst-Decoder_lit+const_entryMiddle/8)(D)(T*1), T
	SARL $31, E
	ANDNL E2, E, E2 // a literal has none: no bits to drop, distance 0
	TESTL $const_entryExcept, E2
	JNZ  dstexcept
	// 38 bits, or 54, less 21: 17 are left for the next look-up.
distance:
	RORXQ $2, BITS, FROM
	SHRXQ E2, BITS, BITS
	SUBL E2, NB
	LOOKUP
	BZHIQ E2, FROM, FROM
	SHRXQ T, FROM, FROM
	SHRL $const_entryValue, E2
	ADDQ FROM, E2
	MOVQ OUT, FROM
	SUBQ E2, FROM
	CMPQ FROM, SOFT
	JCS  traced
copy:
	LEAQ ·identity(SB), T
	ADDQ LEN, T
	SUBL $1, E2
	CMOVQCS T, FROM
	CMOVQCS one-72(SP), LEN
	ADDQ OUT, LEN
	CMPL E2, $15
	JCS short
	// 32 bytes without asking cover all but four matches in a hundred.
	MOVOU (FROM), X0
	MOVOU X0, (OUT)
	MOVOU 16(FROM), X0
	MOVOU X0, 16(OUT)
	ADDQ $32, OUT
	CMPQ OUT, LEN
	JCS  long
	MOVQ LEN, OUT
next:
