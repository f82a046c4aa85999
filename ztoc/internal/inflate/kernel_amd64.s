// SPDX-License-Identifier: Apache-2.0

//go:build !noasm && !nounsafe

#include "go_asm.h"
#include "textflag.h"

// The loop of portable with BMI2; where they differ, this one is the faster of what was
// measured for it. What bounds it is the way from one look-up to the next, six cycles, and
// the wrong guesses: everything else runs beside.
//
// Contract: d is among the symbols of a block, in <= inMax, pos <= posMax,
// inMax+inSlack <= len(src), posMax+outSlack <= len(dst). kernel returns why it stopped. The
// cursor is between two symbols then, and nothing else of d has changed but the trace.
//
// Registers:
//
//	BITS    R8   the bit buffer: two bits already used, those to come, and above NB
//	             either zeros or what comes there (the OR of the same does no harm)
//	NB      CX   bits in BITS, in the low byte; the rest is garbage
//	IN      SI   where the next byte of input is: 8*IN-(NB-2) is the position in bits
//	OUT     DI   where the next byte goes
//	LIT     R10  table of literals and lengths
//	DST     R11  table of distances
//	E       AX   entry of the next symbol
//	INMAX   R14  limits: the loop runs while IN <= INMAX
//	OUTMAX  R15  and OUT <= OUTMAX
//	soft    on the stack: matches whose source is before are for the trace
//
// and inside an iteration:
//
//	SV, NB0  R9, BP  BITS and NB before the match: what an exit goes back to
//	E2       BX      bits to drop of the length, entry of the distance, the distance
//	LEN      R12     length, then the end of the copy
//	FROM     R13     extra bits of the distance, then the source
//	T        DX
//
// Invariant at loop: E is the entry for BITS, at least 54 bits are to come. Two literals
// take 22 at most, so that the look-up behind them has its 11; after the refill a length and
// a distance take 37, which leaves 17 for the look-up of the next entry. With a subtable it
// can be more: those paths refill once more. IN never passes the byte behind the next 63
// bits: refills, of 8 bytes each, read less than inSlack beyond INMAX.
//
// Look-ups come before refills, which then are not on the way to the next look-up. The two
// used bits make masking give the offset of an entry in bytes: a load with a scaled index
// takes a cycle longer.

#define BITS   R8
#define NB     CX
#define IN     SI
#define OUT    DI
#define LIT    R10
#define DST    R11
#define E      AX
#define E2     BX
#define T      DX
#define SV     R9
#define NB0    BP
#define LEN    R12
#define FROM   R13
#define INMAX  R14
#define OUTMAX R15

// REFILL makes NB at least 56, so that at least 54 bits are there.
#define REFILL \
	SHLXQ NB, (IN), T; \
	ORQ   T, BITS; \
	MOVBLZX NB, T; \
	SHRL  $3, T; \
	ADDQ  $7, IN; \
	SUBQ  T, IN; \
	ORL   $56, NB

// LOOKUP loads the entry of the next 11 bits.
#define LOOKUP \
	MOVL BITS, T; \
	ANDL $((1<<const_litTableBits-1)<<2), T; \
	MOVL (LIT)(T*1), E

#include "entry_amd64.h"

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
	// beyond len(dst) soft makes no difference, and its address could overflow
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
	// Two literals, without asking: how many come in a row is anybody's guess.
	STEP
	LOOKUP
	STEP
	LOOKUP
	REFILL
	TESTL E, E
	JMI   loop // longer runs of literals: those can be guessed
	MOVQ  BITS, SV
	MOVL  NB, NB0
	TESTL $const_entryExcept, E
	JNZ   litexcept
	LENGTH
length:
	MOVL  BITS, T
	ANDL  $((1<<const_dstTableBits-1)<<2), T
	MOVL  (DST)(T*1), E2
	TESTL $const_entryExcept, E2
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
	SHRL  $const_entryValue, T
	ADDQ  FROM, T
	MOVQ  OUT, FROM
	SUBQ  T, FROM
	CMPQ  FROM, soft-8(SP)
	JCS   traced
	// 64 bytes without asking cover all but one or two matches in a hundred.
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
	MOVOU 32(FROM), X0
	MOVOU X0, 32(OUT)
	MOVOU 48(FROM), X0
	MOVOU X0, 48(OUT)
	ADDQ  $64, OUT
	CMPQ  OUT, LEN
	JCS   long
	MOVQ  LEN, OUT
	JMP   loop

// A match of more than 64 bytes goes on 16 by 16.
long:
	SUBQ OUT, FROM
	ADDQ $64, FROM // minus the distance
long16:
	MOVOU (OUT)(FROM*1), X0
	MOVOU X0, (OUT)
	ADDQ  $16, OUT
	CMPQ  OUT, LEN
	JCS   long16
	MOVQ  LEN, OUT
	JMP   loop

// The distance is below 16: 16 bytes of its pattern are stored over and over, whole
// periods apart.
short:
	LEAQ  ·patterns(SB), T
	MOVOU (FROM), X0
	MOVBLZX 256(T)(E2*1), FROM
	SHLL  $4, E2
	MOVOU (T)(E2*1), X1
	PSHUFB X1, X0
short16:
	MOVOU X0, (OUT)
	ADDQ  FROM, OUT
	CMPQ  OUT, LEN
	JCS   short16
	MOVQ  LEN, OUT
	JMP   loop

// The code goes on in a subtable, or there is none, or it ends the block.
litexcept:
	TESTL $const_entrySub, E
	JEQ   litend
	SHRQ  $const_litTableBits, BITS
	SUBL  $const_litTableBits, NB
	MOVL  E, T
	SHRL  $const_entryValue, T
	SHRL  $8, E
	ANDL  $15, E
	ADDL  $2, E
	BZHIQ E, BITS, E
	SHRL  $2, E
	ADDL  T, E
	MOVL  (LIT)(E*4), E
	TESTL E, E
	JMI   subliteral
	TESTL $const_entryExcept, E
	JNZ   careful
	LENGTH
	KEEP
	REFILL
	JMP   length

subliteral:
	STEP
	LOOKUP
	REFILL
	JMP  loop

litend:
	TESTL $const_entryEnd, E
	JEQ   careful
	SHRL  $8, E
	ANDL  $const_entryDrop, E
	SHRXQ E, BITS, BITS
	SUBL  E, NB
	MOVL  $const_exitEnd, AX
	JMP   done

dstexcept:
	TESTL $const_entrySub, E2
	JEQ   careful
	SHRQ  $const_dstTableBits, BITS
	SUBL  $const_dstTableBits, NB
	MOVL  E2, T
	SHRL  $const_entryValue, T
	SHRL  $8, E2
	ANDL  $15, E2
	ADDL  $2, E2
	BZHIQ E2, BITS, E2
	SHRL  $2, E2
	ADDL  T, E2
	MOVL  (DST)(E2*4), E2
	TESTL $const_entryExcept, E2
	JNZ   careful
	KEEP
	REFILL
	JMP   distance

// The source begins before dst[soft], or even before dst[0].
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
