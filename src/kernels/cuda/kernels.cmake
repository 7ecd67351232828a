# One line per NAME.cu of this folder: aerogel_cuda_kernel(NAME TARGETS ...). sm_80 runs on 8.x, sm_89 on 8.9 only; sm_90,
# sm_100 and sm_120 run on theirs and later of the same major number; a target with an "a" has instructions that
# exist on that architecture alone, with an "f" on its family (12.x). Name no target that gains nothing: sm_80 serves 8.6 and 8.9 too.
# Products and sums are not contracted (-fmad=false), as everywhere in Aerogel: a fused one is written as __fmaf_rn.
aerogel_cuda_kernel(quantize TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(linear_int8 TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(linear_int8_sm90 TARGETS sm_90a)
aerogel_cuda_kernel(linear_int4 TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(linear_int4_sm90 TARGETS sm_90a)
aerogel_cuda_kernel(linear_bf16 TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(linear_bf16_sm90 TARGETS sm_90a)
aerogel_cuda_kernel(linear_codes_sm90 TARGETS sm_90a)
aerogel_cuda_kernel(linear_fp8 TARGETS sm_89 sm_120)
aerogel_cuda_kernel(linear_fp8_sm90 TARGETS sm_90a)
aerogel_cuda_kernel(linear_mx_sm120 TARGETS sm_120f)
aerogel_cuda_kernel(linear_mxfp4_sm120 TARGETS sm_120f)

aerogel_cuda_kernel(convolution TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(elementwise TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(attention TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(attention_sm90 TARGETS sm_90a)
aerogel_cuda_kernel(int8_qk_sm90 TARGETS sm_90a)
aerogel_cuda_kernel(int8_attention TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(int8_qk_attention TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(int8_scales TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(attention_rounding TARGETS sm_80 sm_90 sm_100 sm_120)
aerogel_cuda_kernel(planning TARGETS sm_80 sm_90 sm_100 sm_120)
