// SPDX-License-Identifier: Apache-2.0

// The names of stream a, see pair_amd64.s.

#define BITS R8
#define NB R9
#define OUT DI
#define E AX
#define D R10
#define IN inA-8(SP)
#define SOFT softA-16(SP)
#define INMAX inMaxA-24(SP)
#define OUTMAX outMaxA-32(SP)
#define ARG a+0(FP)
#define EXIT exitA+16(FP)
#define LAST lastA-80(SP)
#define next nextA
#define more moreA
#define enough enoughA
#define lit litA
#define long longA
#define long16 long16A
#define short shortA
#define short16 short16A
#define litexcept litexceptA
#define subliteral subliteralA
#define dstexcept dstexceptA
#define length lengthA
#define distance distanceA
#define traced tracedA
#define copy copyA
#define litend litendA
#define careful carefulA
#define slack slackA
#define whole wholeA
