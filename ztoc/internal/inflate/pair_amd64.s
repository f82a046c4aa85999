// SPDX-License-Identifier: Apache-2.0

//go:build !noasm && !nounsafe

#include "go_asm.h"
#include "textflag.h"

// Two streams in one loop. One stream waits most of the time, for the look-up of the
// symbol before or for the front end after a wrong guess; two that know nothing of each
// other wait at the same time. They take turns: each step is two literals, if they come, and
// then a match or a literal, whichever: what a symbol is takes no branch, as a wrong guess
// costs both streams their work ahead. What is left to guess is rare.
//
// Contract, for each stream: it is among the symbols of a block, in <= inMax, pos <= posMax,
// inMax+inSlack <= len(src), posMax+outSlack <= len(dst). kernel2 runs until one of
// them exits and returns its exit; the other's is exitNone. Both cursors are between two
// symbols then, and nothing else of the decoders has changed but the trace.
//
// Registers, by stream:
//
//	         a    b
//	BITS     R8   R11   the bit buffer: two bits already used, those to come, those above
//	                    NB are either zero or what comes there (OR of the same is no harm)
//	NB       R9   R12   bits in BITS, in the low byte; the rest is garbage
//	OUT      DI   SI    where the next byte goes
//	E        AX   BX    the entry of the next symbol
//	D        R10  R13   the Decoder's table of literals and lengths
//	IN, INMAX, SOFT, OUTMAX  on the stack: where the next input byte is, and limits
//	LAST  on the stack: the last entry that came behind two steps for literals
//
// and of the stream whose turn it is: T CX, NB0 DX (NB before the match), E2 BP (entry of
// the distance, then the distance), LEN R14 (length, then the end of the copy), FROM R15
// (extra bits of the distance, then the source).
//
// Invariant at next, with which a step begins: E is the entry for BITS, NB-2 >= 17, and
// 8*IN-(NB-2) is the bit position between two symbols. Behind a refill, all bits of BITS
// can be looked at, more than NB says: NB is what may be taken. (IN never passes the byte
// behind the next 63 bits, so that refills, of 8 bytes each, read less than inSlack beyond
// INMAX.)
//
// The two used bits make masking give the offset of an entry in bytes: a load with a scaled
// index takes a cycle longer.
//
// The stream whose names hold is chosen by including pair_a_amd64.h or pair_b_amd64.h, until pair_end_amd64.h.

#define T    CX
#define NB0  DX
#define E2   BP
#define LEN  R14
#define FROM R15

// REFILL makes NB at least 56, so that at least 54 bits are there.
#define REFILL \
	MOVQ IN, T; \
	SHLXQ NB, (T), T; \
	ORQ  T, BITS; \
	MOVBLZX NB, T; \
	XORL $63, T; \
	SHRL $3, T; \
	ADDQ T, IN; \
	ORL  $56, NB

// LOOKUP loads the entry of the next 11 bits.
#define LOOKUP \
	MOVL BITS, E; \
	ANDL $((1<<const_litTableBits-1)<<2), E; \
	MOVL (D)(E*1), E

#include "entry_amd64.h"

// ENTER loads a stream.
#define ENTER \
	MOVQ ARG, D; \
	MOVQ $const_exitNone, EXIT; \
	MOVQ $0, LAST; \
	MOVQ cursor_bits(D), BITS; \
	SHLQ $2, BITS; \
	MOVQ cursor_nbits(D), NB; \
	ADDQ $2, NB; \
	MOVQ cursor_src(D), T; \
	MOVQ cursor_inMax(D), NB0; \
	ADDQ T, NB0; \
	MOVQ NB0, INMAX; \
	ADDQ cursor_in(D), T; \
	MOVQ T, IN; \
	MOVQ cursor_dst(D), OUT; \
	MOVQ cursor_posMax(D), NB0; \
	ADDQ OUT, NB0; \
	MOVQ NB0, OUTMAX; \
	MOVQ cursor_soft(D), T; \
	MOVQ (cursor_dst+8)(D), NB0; \
	CMPQ T, NB0; \
	CMOVQHI NB0, T; \
	ADDQ OUT, T; \
	MOVQ T, SOFT; \
	ADDQ cursor_pos(D), OUT; \
	ADDQ $Decoder_lit, D; \
	REFILL; \
	LOOKUP

// LIMIT leaves the loop where input or room may not suffice for a step.
#define LIMIT \
	MOVQ IN, T; \
	CMPQ T, INMAX; \
	JHI  slack; \
	CMPQ OUT, OUTMAX; \
	JHI  slack

// LEAVE stores a stream's cursor, with whole bytes given back to the input.
#define LEAVE \
	SUBL $2, NB; \
	MOVBLZX NB, NB; \
	MOVL NB, NB0; \
	SHRL $3, NB0; \
	MOVQ IN, T; \
	SUBQ NB0, T; \
	XORL BITS, BITS; \
	ANDL $7, NB; \
	JEQ  whole; \
	MOVBLZX -1(T), BITS; \
	MOVL $8, NB0; \
	SUBL NB, NB0; \
	SHRXQ NB0, BITS, BITS; \
whole: \
	MOVQ BITS, (cursor_bits-Decoder_lit)(D); \
	MOVQ NB, (cursor_nbits-Decoder_lit)(D); \
	SUBQ (cursor_src-Decoder_lit)(D), T; \
	MOVQ T, (cursor_in-Decoder_lit)(D); \
	SUBQ (cursor_dst-Decoder_lit)(D), OUT; \
	MOVQ OUT, (cursor_pos-Decoder_lit)(D)

// func kernel2(a, b *Decoder) (exitA, exitB int)
TEXT ·kernel2(SB), NOSPLIT, $88-32
	MOVQ $1, one-72(SP)
#include "pair_a_amd64.h"
	ENTER
#include "pair_end_amd64.h"
#include "pair_b_amd64.h"
	ENTER
	PCALIGN $64
loop:
#include "pair_end_amd64.h"
#include "pair_a_amd64.h"
	LIMIT
#include "pair_end_amd64.h"
#include "pair_b_amd64.h"
	LIMIT
#include "pair_end_amd64.h"
#include "pair_a_amd64.h"
#include "pair_step_amd64.h"
#include "pair_end_amd64.h"
#include "pair_b_amd64.h"
#include "pair_step_amd64.h"
	JMP loop

#include "pair_end_amd64.h"
#include "pair_a_amd64.h"
#include "pair_cold_amd64.h"
#include "pair_end_amd64.h"
#include "pair_b_amd64.h"
#include "pair_cold_amd64.h"

done:
#include "pair_end_amd64.h"
#include "pair_a_amd64.h"
	LEAVE
#include "pair_end_amd64.h"
#include "pair_b_amd64.h"
	LEAVE
	RET
