// SPDX-License-Identifier: Apache-2.0

// What a step leaves the straight line for.

more:
	REFILL
	JMP  enough

// A long run of literals, as there are where data does not compress, and one of them for
// sure. 54 bits less three codes leave 21.
lit:
	SHRXQ E, BITS, BITS
	SUBL E, NB
	SHRL $const_entryValue, E
	MOVB E, (OUT)
	INCQ OUT
	LOOKUP
	STEP
	LOOKUP
	STEP
	LOOKUP
	JMP next

// A match of more than 32 bytes goes on 16 by 16. FROM becomes minus the distance.
long:
	SUBQ OUT, FROM
	ADDQ $32, FROM
long16:
	MOVOU (OUT)(FROM*1), X0
	MOVOU X0, (OUT)
	ADDQ $16, OUT
	CMPQ OUT, LEN
	JCS  long16
	MOVQ LEN, OUT
	JMP  next

// The distance is below 16: 16 bytes of its pattern are stored over and over, whole
// periods apart. E2 is one less than the distance.
short:
	LEAQ ·patterns(SB), T
	MOVOU (FROM), X0
	MOVBLZX (256+1)(T)(E2*1), FROM
	SHLL $4, E2
	MOVOU 16(T)(E2*1), X1
	PSHUFB X1, X0
short16:
	MOVOU X0, (OUT)
	ADDQ FROM, OUT
	CMPQ OUT, LEN
	JCS  short16
	MOVQ LEN, OUT
	JMP  next

// The code goes on in a subtable, or there is none, or it ends the block.
litexcept:
	TESTL $const_entrySub, E
	JEQ  litend
	SHRQ $const_litTableBits, BITS
	SUBL $const_litTableBits, NB
	MOVL E, T
	SHRL $const_entryValue, T
	SHRL $8, E
	ANDL $15, E
	ADDL $2, E
	BZHIQ E, BITS, E
	SHRL $2, E
	ADDL T, E
	MOVL (D)(E*4), E
	TESTL E, E
	JMI  subliteral
	TESTL $const_entryExcept, E
	JNZ  careful
	LENGTH
	KEEP
	REFILL
	JMP  length
subliteral:
	SHRXQ E, BITS, BITS
	SUBL E, NB
	SHRL $const_entryValue, E
	MOVB E, (OUT)
	INCQ OUT
	LOOKUP
	REFILL
	JMP  next

dstexcept:
	TESTL $const_entrySub, E2
	JEQ  careful
	SHRQ $const_dstTableBits, BITS
	SUBL $const_dstTableBits, NB
	MOVL E2, T
	SHRL $const_entryValue, T
	SHRL $8, E2
	ANDL $15, E2
	ADDL $2, E2
	BZHIQ E2, BITS, E2
	SHRL $2, E2
	ADDL T, E2
	MOVL (Decoder_dst-Decoder_lit)(D)(E2*4), E2
	TESTL $const_entryExcept, E2
	JNZ  careful
	KEEP
	REFILL
	MOVL E2, T
	SHRL $8, T
	JMP  distance

// The source begins before dst[soft], or even before dst[0], or there is none.
traced:
	TESTL E2, E2
	JEQ  copy
	CMPQ FROM, (cursor_dst-Decoder_lit)(D)
	JCS  careful
	MOVQ (cursor_nrefs-Decoder_lit)(D), FROM
	CMPQ FROM, (cursor_refs+8-Decoder_lit)(D)
	JCC  careful
	INCQ (cursor_nrefs-Decoder_lit)(D)
	SHLQ $4, FROM
	ADDQ (cursor_refs-Decoder_lit)(D), FROM
	MOVBLZX NB0, NB0
	MOVQ IN, T
	SUBQ (cursor_src-Decoder_lit)(D), T
	SHLQ $3, T
	SUBQ NB0, T
	ADDQ $2, T
	MOVQ T, Ref_Bit(FROM)
	MOVQ OUT, T
	SUBQ (cursor_dst-Decoder_lit)(D), T
	MOVL T, Ref_Pos(FROM)
	MOVW E2, Ref_Dist(FROM)
	MOVW LEN, Ref_Len(FROM)
	MOVQ OUT, FROM
	SUBQ E2, FROM
	JMP  copy

litend:
	TESTL $const_entryEnd, E
	JEQ  careful
	SHRL $8, E
	ANDL $const_entryDrop, E
	SUBL E, NB
	MOVQ $const_exitEnd, EXIT
	JMP  done
careful:
	MOVL NB0, NB
	MOVQ $const_exitCareful, EXIT
	JMP  done
slack:
	MOVQ $const_exitSlack, EXIT
	JMP  done
