// SPDX-License-Identifier: Apache-2.0

// The names of stream b, see pair_amd64.s.

#define BITS R11
#define NB R12
#define OUT SI
#define E BX
#define D R13
#define IN inB-40(SP)
#define SOFT softB-48(SP)
#define INMAX inMaxB-56(SP)
#define OUTMAX outMaxB-64(SP)
#define ARG b+8(FP)
#define EXIT exitB+24(FP)
#define LAST lastB-88(SP)
#define next nextB
#define more moreB
#define enough enoughB
#define lit litB
#define long longB
#define long16 long16B
#define short shortB
#define short16 short16B
#define litexcept litexceptB
#define subliteral subliteralB
#define dstexcept dstexceptB
#define length lengthB
#define distance distanceB
#define traced tracedB
#define copy copyB
#define litend litendB
#define careful carefulB
#define slack slackB
#define whole wholeB
