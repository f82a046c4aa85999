// SPDX-License-Identifier: Apache-2.0

//go:build !noasm && !nounsafe

#include "go_asm.h"
#include "textflag.h"

#define BITS R8
#define NB   CX
#define IN   SI
#define OUT  DI
#define LIT  R10
#define DST  R11
#define E    AX
#define E2   BX
#define T    DX
#define SV   R9
#define NB0  BP
#define LEN  R12
#define FROM R13
#define INMAX R14
#define OUTMAX R15

#define REFILL \
	SHLXQ NB, (IN), T; \
	ORQ   T, BITS; \
	MOVBLZX NB, T; \
	SHRL  $3, T; \
	ADDQ  $7, IN; \
	SUBQ  T, IN; \
	ORL   $56, NB

#define LOOKUP \
	MOVL BITS, T; \
	ANDL $0x1ffc, T; \
	MOVL (LIT)(T*1), E

#define LITERAL \
	SHRXQ E, BITS, BITS; \
	SUBL  E, NB; \
	SHRL  $16, E; \
	MOVB  E, (OUT); \
	INCQ  OUT

// STEP stores a literal, and does nothing with anything else but to write over
// what comes next: its entry has 0 in the low 6 bits and in the sign.
#define STEP \
	SHRXQ E, BITS, BITS; \
	SUBL  E, NB; \
	MOVL  E, T; \
	SHRL  $16, T; \
	SHRL  $31, E; \
	MOVB  T, (OUT); \
	ADDQ  E, OUT

// func kernel(d *Decoder) int
TEXT ·kernel(SB), NOSPLIT, $24-16
	MOVQ d+0(FP), T
	LEAQ Decoder_lit(T), LIT
	LEAQ Decoder_dst(T), DST
	MOVQ cursor_bits(T), BITS
	MOVQ cursor_nbits(T), NB
	MOVQ cursor_src(T), IN
	MOVQ cursor_inMax(T), INMAX
	ADDQ IN, INMAX
	ADDQ cursor_in(T), IN
	MOVQ cursor_dst(T), OUT
	MOVQ cursor_posMax(T), OUTMAX
	ADDQ OUT, OUTMAX
	// soft is saturated to len(dst)
	MOVQ cursor_soft(T), SV
	MOVQ (cursor_dst+8)(T), NB0
	CMPQ SV, NB0
	CMOVQHI NB0, SV
	ADDQ OUT, SV
	MOVQ SV, soft-8(SP)
	ADDQ cursor_pos(T), OUT
	SHLQ $2, BITS
	ADDQ $2, NB

	REFILL
	LOOKUP

	PCALIGN $64
loop:
	CMPQ IN, INMAX
	JHI  slack
	CMPQ OUT, OUTMAX
	JHI  slack
	STEP
	LOOKUP
	STEP
	LOOKUP
	REFILL
	TESTL E, E
	JMI  loop
	MOVQ  BITS, SV
	MOVL  NB, NB0
	TESTL $0x8000, E
	JNZ   litexcept
	MOVL  E, E2
	SHRL  $8, E2
	SHRXQ E2, BITS, BITS
	SUBL  E2, NB
	MOVQ  SV, LEN
	SHRQ  $2, LEN
	BZHIQ E2, LEN, LEN
	MOVL  BITS, T
	ANDL  $0x3fc, T
	MOVL  (DST)(T*1), E2
	MOVL  E, T
	SHRL  $25, E
	SHRL  $16, T
	SHRXQ E, LEN, LEN
	ANDL  $0x1ff, T
	ADDQ  T, LEN
	TESTL $0x8000, E2
	JNZ   dstexcept
distance:
	MOVQ  BITS, FROM
	SHRQ  $2, FROM
	BZHIQ E2, FROM, FROM
	SHRXQ E2, BITS, BITS
	SUBL  E2, NB
	LOOKUP
	MOVL  E2, T
	SHRL  $8, E2
	SHRXQ E2, FROM, FROM
	SHRL  $16, T
	ADDQ  FROM, T
	MOVQ  OUT, FROM
	SUBQ  T, FROM
	CMPQ  FROM, soft-8(SP)
	JCS   traced
copy:
	MOVL  T, E2 // distance
	REFILL
	ADDQ  OUT, LEN // end
	CMPQ  E2, $16
	JCS   short
	MOVOU (FROM), X0
	MOVOU X0, (OUT)
	MOVOU 16(FROM), X0
	MOVOU X0, 16(OUT)
	ADDQ  $32, OUT
	CMPQ  OUT, LEN
	JCS   long
	MOVQ  LEN, OUT
	JMP   loop

long:
	SUBQ OUT, FROM
	ADDQ $32, FROM // - distance
long16:
	MOVOU (OUT)(FROM*1), X0
	MOVOU X0, (OUT)
	ADDQ  $16, OUT
	CMPQ  OUT, LEN
	JCS   long16
	MOVQ  LEN, OUT
	JMP   loop

short:
	CMPQ  E2, $1
	JEQ   run
	CMPQ  E2, $8
	JCS   pattern
short8:
	MOVQ  (FROM), T
	MOVQ  T, (OUT)
	ADDQ  $8, FROM
	ADDQ  $8, OUT
	CMPQ  OUT, LEN
	JCS   short8
	MOVQ  LEN, OUT
	JMP   loop
run:
	MOVBLZX (FROM), T
	MOVQ  $0x0101010101010101, E2
	IMULQ E2, T
	MOVQ  T, X0
	PUNPCKLQDQ X0, X0
run8:
	MOVOU X0, (OUT)
	ADDQ  $16, OUT
	CMPQ  OUT, LEN
	JCS   run8
	MOVQ  LEN, OUT
	JMP   loop
pattern:
	MOVQ  (FROM), T
pattern8:
	MOVQ  T, (OUT)
	ADDQ  E2, OUT
	CMPQ  OUT, LEN
	JCS   pattern8
	MOVQ  LEN, OUT
	JMP   loop

litexcept:
	TESTL $0x4000, E
	JEQ   litend
	// subtable
	SHRQ  $11, BITS
	SUBL  $11, NB
	MOVL  E, T
	SHRL  $16, T
	SHRL  $8, E
	ANDL  $15, E
	ADDL  $2, E
	BZHIQ E, BITS, E
	SHRL  $2, E
	ADDL  T, E
	MOVL  (LIT)(E*4), E
	TESTL E, E
	JMI   subliteral
	TESTL $0x8000, E
	JNZ   careful
	MOVL  E, E2
	SHRL  $8, E2
	MOVQ  BITS, LEN
	SHRQ  $2, LEN
	BZHIQ E2, LEN, LEN
	SHRXQ E2, BITS, BITS
	SUBL  E2, NB
	MOVL  E, T
	SHRL  $25, E
	SHRL  $16, T
	SHRXQ E, LEN, LEN
	ANDL  $0x1ff, T
	ADDQ  T, LEN
	ADDL  $56, NB0 // makes up for the bytes that the refill takes
	MOVL  NB, T
	ANDL  $56, T
	SUBL  T, NB0
	REFILL
	MOVL  BITS, T
	ANDL  $0x3fc, T
	MOVL  (DST)(T*1), E2
	TESTL $0x8000, E2
	JEQ   distance
	JMP   dstexcept

subliteral:
	LITERAL
	LOOKUP
	REFILL
	JMP  loop

litend:
	TESTL $0x1000000, E
	JEQ   careful
	SHRL  $8, E
	ANDL  $63, E
	SHRXQ E, BITS, BITS
	SUBL  E, NB
	MOVL  $const_exitEnd, AX
	JMP   done

dstexcept:
	TESTL $0x4000, E2
	JEQ   careful
	SHRQ  $8, BITS
	SUBL  $8, NB
	MOVL  E2, T
	SHRL  $16, T
	SHRL  $8, E2
	ANDL  $15, E2
	ADDL  $2, E2
	BZHIQ E2, BITS, E2
	SHRL  $2, E2
	ADDL  T, E2
	MOVL  (DST)(E2*4), E2
	TESTL $0x8000, E2
	JNZ   careful
	ADDL  $56, NB0
	MOVL  NB, T
	ANDL  $56, T
	SUBL  T, NB0
	REFILL
	JMP   distance

traced:
	MOVQ  d+0(FP), E2
	CMPQ  FROM, cursor_dst(E2)
	JCS   careful
	MOVQ  cursor_nrefs(E2), FROM
	CMPQ  FROM, (cursor_refs+8)(E2)
	JCC   careful
	INCQ  cursor_nrefs(E2)
	SHLQ  $4, FROM
	ADDQ  cursor_refs(E2), FROM
	MOVQ  IN, SV
	SUBQ  cursor_src(E2), SV
	SHLQ  $3, SV
	MOVBLZX NB0, NB0
	SUBQ  NB0, SV
	ADDQ  $2, SV
	MOVQ  SV, Ref_Bit(FROM)
	MOVQ  OUT, SV
	SUBQ  cursor_dst(E2), SV
	MOVL  SV, Ref_Pos(FROM)
	MOVW  T, Ref_Dist(FROM)
	MOVW  LEN, Ref_Len(FROM)
	MOVQ  OUT, FROM
	SUBQ  T, FROM
	JMP   copy
careful:
	MOVQ SV, BITS
	MOVL NB0, NB
	MOVL $const_exitCareful, AX
	JMP  done
slack:
	MOVL $const_exitSlack, AX
done:
	SHRQ $2, BITS
	SUBL $2, NB
	MOVQ d+0(FP), T
	MOVBLZX NB, NB
	MOVL NB, R9
	SHRL $3, R9
	SUBQ R9, IN
	ANDL $7, NB
	BZHIQ NB, BITS, BITS
	MOVQ BITS, cursor_bits(T)
	MOVQ NB, cursor_nbits(T)
	SUBQ cursor_src(T), IN
	MOVQ IN, cursor_in(T)
	SUBQ cursor_dst(T), OUT
	MOVQ OUT, cursor_pos(T)
	MOVQ AX, ret+8(FP)
	RET
