// SPDX-License-Identifier: Apache-2.0

//go:build !noasm && !nounsafe

#include "textflag.h"

// patterns has, for distances 0 to 15, the shuffle that repeats the first bytes of 16, and
// behind them the whole periods in 16 bytes.
DATA ·patterns+0(SB)/8, $0x0000000000000000
DATA ·patterns+8(SB)/8, $0x0000000000000000
DATA ·patterns+16(SB)/8, $0x0000000000000000
DATA ·patterns+24(SB)/8, $0x0000000000000000
DATA ·patterns+32(SB)/8, $0x0100010001000100
DATA ·patterns+40(SB)/8, $0x0100010001000100
DATA ·patterns+48(SB)/8, $0x0100020100020100
DATA ·patterns+56(SB)/8, $0x0002010002010002
DATA ·patterns+64(SB)/8, $0x0302010003020100
DATA ·patterns+72(SB)/8, $0x0302010003020100
DATA ·patterns+80(SB)/8, $0x0201000403020100
DATA ·patterns+88(SB)/8, $0x0004030201000403
DATA ·patterns+96(SB)/8, $0x0100050403020100
DATA ·patterns+104(SB)/8, $0x0302010005040302
DATA ·patterns+112(SB)/8, $0x0006050403020100
DATA ·patterns+120(SB)/8, $0x0100060504030201
DATA ·patterns+128(SB)/8, $0x0706050403020100
DATA ·patterns+136(SB)/8, $0x0706050403020100
DATA ·patterns+144(SB)/8, $0x0706050403020100
DATA ·patterns+152(SB)/8, $0x0605040302010008
DATA ·patterns+160(SB)/8, $0x0706050403020100
DATA ·patterns+168(SB)/8, $0x0504030201000908
DATA ·patterns+176(SB)/8, $0x0706050403020100
DATA ·patterns+184(SB)/8, $0x04030201000a0908
DATA ·patterns+192(SB)/8, $0x0706050403020100
DATA ·patterns+200(SB)/8, $0x030201000b0a0908
DATA ·patterns+208(SB)/8, $0x0706050403020100
DATA ·patterns+216(SB)/8, $0x0201000c0b0a0908
DATA ·patterns+224(SB)/8, $0x0706050403020100
DATA ·patterns+232(SB)/8, $0x01000d0c0b0a0908
DATA ·patterns+240(SB)/8, $0x0706050403020100
DATA ·patterns+248(SB)/8, $0x000e0d0c0b0a0908
DATA ·patterns+256(SB)/8, $0x0e0c0f100f101010
DATA ·patterns+264(SB)/8, $0x0f0e0d0c0b0a0910
GLOBL ·patterns(SB), RODATA|NOPTR, $272

// identity has at i the byte i, for literals that are copied like matches, and as much more as is read behind.
DATA ·identity+0(SB)/8, $0x0706050403020100
DATA ·identity+8(SB)/8, $0x0f0e0d0c0b0a0908
DATA ·identity+16(SB)/8, $0x1716151413121110
DATA ·identity+24(SB)/8, $0x1f1e1d1c1b1a1918
DATA ·identity+32(SB)/8, $0x2726252423222120
DATA ·identity+40(SB)/8, $0x2f2e2d2c2b2a2928
DATA ·identity+48(SB)/8, $0x3736353433323130
DATA ·identity+56(SB)/8, $0x3f3e3d3c3b3a3938
DATA ·identity+64(SB)/8, $0x4746454443424140
DATA ·identity+72(SB)/8, $0x4f4e4d4c4b4a4948
DATA ·identity+80(SB)/8, $0x5756555453525150
DATA ·identity+88(SB)/8, $0x5f5e5d5c5b5a5958
DATA ·identity+96(SB)/8, $0x6766656463626160
DATA ·identity+104(SB)/8, $0x6f6e6d6c6b6a6968
DATA ·identity+112(SB)/8, $0x7776757473727170
DATA ·identity+120(SB)/8, $0x7f7e7d7c7b7a7978
DATA ·identity+128(SB)/8, $0x8786858483828180
DATA ·identity+136(SB)/8, $0x8f8e8d8c8b8a8988
DATA ·identity+144(SB)/8, $0x9796959493929190
DATA ·identity+152(SB)/8, $0x9f9e9d9c9b9a9998
DATA ·identity+160(SB)/8, $0xa7a6a5a4a3a2a1a0
DATA ·identity+168(SB)/8, $0xafaeadacabaaa9a8
DATA ·identity+176(SB)/8, $0xb7b6b5b4b3b2b1b0
DATA ·identity+184(SB)/8, $0xbfbebdbcbbbab9b8
DATA ·identity+192(SB)/8, $0xc7c6c5c4c3c2c1c0
DATA ·identity+200(SB)/8, $0xcfcecdcccbcac9c8
DATA ·identity+208(SB)/8, $0xd7d6d5d4d3d2d1d0
DATA ·identity+216(SB)/8, $0xdfdedddcdbdad9d8
DATA ·identity+224(SB)/8, $0xe7e6e5e4e3e2e1e0
DATA ·identity+232(SB)/8, $0xefeeedecebeae9e8
DATA ·identity+240(SB)/8, $0xf7f6f5f4f3f2f1f0
DATA ·identity+248(SB)/8, $0xfffefdfcfbfaf9f8
DATA ·identity+256(SB)/8, $0x0706050403020100
DATA ·identity+264(SB)/8, $0x0f0e0d0c0b0a0908
DATA ·identity+272(SB)/8, $0x1716151413121110
DATA ·identity+280(SB)/8, $0x1f1e1d1c1b1a1918
GLOBL ·identity(SB), RODATA|NOPTR, $288
