// SPDX-License-Identifier: Apache-2.0

//go:build !noasm

#include "textflag.h"

// A stream has its state in two registers, as ABEF and CDGH, and four registers of
// message words. The words of a group of four rounds are replaced by those of the
// group four later as soon as they have been used.

// ROUNDS does four rounds with the words W and the constants at K.
#define ROUNDS(K, W, ABEF, CDGH) \
	MOVOU       K*16(AX), X0   \
	PADDL       W, X0          \
	SHA256RNDS2 X0, ABEF, CDGH \
	PSHUFD      $0x0e, X0, X0  \
	SHA256RNDS2 X0, CDGH, ABEF

// NEXT completes the words behind W, those before being PREV.
#define NEXT(PREV, W, AFTER) \
	MOVO       W, X13        \
	PALIGNR    $4, PREV, X13 \
	PADDL      X13, AFTER    \
	SHA256MSG2 W, AFTER

// LOAD loads four words of a block.
#define LOAD(I, P, W) \
	MOVOU  I*16(P), W \
	PSHUFB X14, W

// UNPACK brings the state at H into the order of the instructions, PACK back.
#define UNPACK(H, ABEF, CDGH) \
	MOVOU   0(H), X13        \
	MOVOU   16(H), CDGH      \
	PSHUFD  $0xb1, X13, X13  \
	PSHUFD  $0x1b, CDGH, CDGH \
	MOVO    X13, ABEF        \
	PALIGNR $8, CDGH, ABEF   \
	PBLENDW $0xf0, X13, CDGH

#define PACK(H, ABEF, CDGH) \
	PSHUFD  $0x1b, ABEF, X13  \
	PSHUFD  $0xb1, CDGH, CDGH \
	MOVO    X13, ABEF         \
	PBLENDW $0xf0, CDGH, ABEF \
	PALIGNR $8, X13, CDGH     \
	MOVOU   ABEF, 0(H)        \
	MOVOU   CDGH, 16(H)

// ADD adds the state before the block, at I of the frame, to REG.
#define ADD(I, REG) \
	MOVOU I(SP), X13 \
	PADDL X13, REG

// func block2(a, b *[8]uint32, p, q *byte, n int)
TEXT ·block2(SB), NOSPLIT, $64-40
	MOVQ  a+0(FP), DI
	MOVQ  b+8(FP), SI
	MOVQ  p+16(FP), R8
	MOVQ  q+24(FP), R9
	MOVQ  n+32(FP), CX
	LEAQ  constants<>(SB), AX
	MOVOU swap<>(SB), X14
	UNPACK(DI, X1, X2)
	UNPACK(SI, X7, X8)

loop:
	MOVOU X1, 0(SP)
	MOVOU X2, 16(SP)
	MOVOU X7, 32(SP)
	MOVOU X8, 48(SP)

	LOAD(0, R8, X3)
	ROUNDS(0, X3, X1, X2)
	LOAD(0, R9, X9)
	ROUNDS(0, X9, X7, X8)

	LOAD(1, R8, X4)
	ROUNDS(1, X4, X1, X2)
	SHA256MSG1 X4, X3
	LOAD(1, R9, X10)
	ROUNDS(1, X10, X7, X8)
	SHA256MSG1 X10, X9

	LOAD(2, R8, X5)
	ROUNDS(2, X5, X1, X2)
	SHA256MSG1 X5, X4
	LOAD(2, R9, X11)
	ROUNDS(2, X11, X7, X8)
	SHA256MSG1 X11, X10

	LOAD(3, R8, X6)
	ROUNDS(3, X6, X1, X2)
	NEXT(X5, X6, X3)
	SHA256MSG1 X6, X5
	LOAD(3, R9, X12)
	ROUNDS(3, X12, X7, X8)
	NEXT(X11, X12, X9)
	SHA256MSG1 X12, X11

	ROUNDS(4, X3, X1, X2)
	NEXT(X6, X3, X4)
	SHA256MSG1 X3, X6
	ROUNDS(4, X9, X7, X8)
	NEXT(X12, X9, X10)
	SHA256MSG1 X9, X12

	ROUNDS(5, X4, X1, X2)
	NEXT(X3, X4, X5)
	SHA256MSG1 X4, X3
	ROUNDS(5, X10, X7, X8)
	NEXT(X9, X10, X11)
	SHA256MSG1 X10, X9

	ROUNDS(6, X5, X1, X2)
	NEXT(X4, X5, X6)
	SHA256MSG1 X5, X4
	ROUNDS(6, X11, X7, X8)
	NEXT(X10, X11, X12)
	SHA256MSG1 X11, X10

	ROUNDS(7, X6, X1, X2)
	NEXT(X5, X6, X3)
	SHA256MSG1 X6, X5
	ROUNDS(7, X12, X7, X8)
	NEXT(X11, X12, X9)
	SHA256MSG1 X12, X11

	ROUNDS(8, X3, X1, X2)
	NEXT(X6, X3, X4)
	SHA256MSG1 X3, X6
	ROUNDS(8, X9, X7, X8)
	NEXT(X12, X9, X10)
	SHA256MSG1 X9, X12

	ROUNDS(9, X4, X1, X2)
	NEXT(X3, X4, X5)
	SHA256MSG1 X4, X3
	ROUNDS(9, X10, X7, X8)
	NEXT(X9, X10, X11)
	SHA256MSG1 X10, X9

	ROUNDS(10, X5, X1, X2)
	NEXT(X4, X5, X6)
	SHA256MSG1 X5, X4
	ROUNDS(10, X11, X7, X8)
	NEXT(X10, X11, X12)
	SHA256MSG1 X11, X10

	ROUNDS(11, X6, X1, X2)
	NEXT(X5, X6, X3)
	SHA256MSG1 X6, X5
	ROUNDS(11, X12, X7, X8)
	NEXT(X11, X12, X9)
	SHA256MSG1 X12, X11

	ROUNDS(12, X3, X1, X2)
	NEXT(X6, X3, X4)
	SHA256MSG1 X3, X6
	ROUNDS(12, X9, X7, X8)
	NEXT(X12, X9, X10)
	SHA256MSG1 X9, X12

	ROUNDS(13, X4, X1, X2)
	NEXT(X3, X4, X5)
	ROUNDS(13, X10, X7, X8)
	NEXT(X9, X10, X11)

	ROUNDS(14, X5, X1, X2)
	NEXT(X4, X5, X6)
	ROUNDS(14, X11, X7, X8)
	NEXT(X10, X11, X12)

	ROUNDS(15, X6, X1, X2)
	ROUNDS(15, X12, X7, X8)

	ADD(0, X1)
	ADD(16, X2)
	ADD(32, X7)
	ADD(48, X8)
	ADDQ $64, R8
	ADDQ $64, R9
	DECQ CX
	JNZ  loop

	PACK(DI, X1, X2)
	PACK(SI, X7, X8)
	RET

// func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	MOVL DX, edx+20(FP)
	RET

// swap is the mask that makes big-endian words of bytes.
DATA swap<>+0(SB)/8, $0x0405060700010203
DATA swap<>+8(SB)/8, $0x0c0d0e0f08090a0b
GLOBL swap<>(SB), RODATA|NOPTR, $16

DATA constants<>+0(SB)/8, $0x71374491428a2f98
DATA constants<>+8(SB)/8, $0xe9b5dba5b5c0fbcf
DATA constants<>+16(SB)/8, $0x59f111f13956c25b
DATA constants<>+24(SB)/8, $0xab1c5ed5923f82a4
DATA constants<>+32(SB)/8, $0x12835b01d807aa98
DATA constants<>+40(SB)/8, $0x550c7dc3243185be
DATA constants<>+48(SB)/8, $0x80deb1fe72be5d74
DATA constants<>+56(SB)/8, $0xc19bf1749bdc06a7
DATA constants<>+64(SB)/8, $0xefbe4786e49b69c1
DATA constants<>+72(SB)/8, $0x240ca1cc0fc19dc6
DATA constants<>+80(SB)/8, $0x4a7484aa2de92c6f
DATA constants<>+88(SB)/8, $0x76f988da5cb0a9dc
DATA constants<>+96(SB)/8, $0xa831c66d983e5152
DATA constants<>+104(SB)/8, $0xbf597fc7b00327c8
DATA constants<>+112(SB)/8, $0xd5a79147c6e00bf3
DATA constants<>+120(SB)/8, $0x1429296706ca6351
DATA constants<>+128(SB)/8, $0x2e1b213827b70a85
DATA constants<>+136(SB)/8, $0x53380d134d2c6dfc
DATA constants<>+144(SB)/8, $0x766a0abb650a7354
DATA constants<>+152(SB)/8, $0x92722c8581c2c92e
DATA constants<>+160(SB)/8, $0xa81a664ba2bfe8a1
DATA constants<>+168(SB)/8, $0xc76c51a3c24b8b70
DATA constants<>+176(SB)/8, $0xd6990624d192e819
DATA constants<>+184(SB)/8, $0x106aa070f40e3585
DATA constants<>+192(SB)/8, $0x1e376c0819a4c116
DATA constants<>+200(SB)/8, $0x34b0bcb52748774c
DATA constants<>+208(SB)/8, $0x4ed8aa4a391c0cb3
DATA constants<>+216(SB)/8, $0x682e6ff35b9cca4f
DATA constants<>+224(SB)/8, $0x78a5636f748f82ee
DATA constants<>+232(SB)/8, $0x8cc7020884c87814
DATA constants<>+240(SB)/8, $0xa4506ceb90befffa
DATA constants<>+248(SB)/8, $0xc67178f2bef9a3f7
GLOBL constants<>(SB), RODATA|NOPTR, $256
