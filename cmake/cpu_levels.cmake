# One binary for every x86-64: the sources of a CPU folder are compiled for that level only, the rest for
# the plain baseline, and the choice is made at run time. Whatever such a source defines must be local to
# it (tests/house/test_weak_symbols.py), or the linker could hand an AVX-512 copy of a shared inline
# function to a machine without AVX-512. -O2 also in debug builds: inlining is what keeps the headers'
# small functions out of those objects.

set(AEROGEL_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(AEROGEL_FLAGS_avxvnni ${AEROGEL_FLAGS_avx2} -mavxvnni)
set(AEROGEL_FLAGS_avx512
  ${AEROGEL_FLAGS_avx2} -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni
  -mprefer-vector-width=512
  # GCC 12 takes the deliberately undefined operands inside its own AVX-512 headers for mistakes (bug 105593).
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized>)
set(AEROGEL_FLAGS_avx512_bf16 ${AEROGEL_FLAGS_avx512} -mavx512bf16)
set(AEROGEL_FLAGS_amx ${AEROGEL_FLAGS_avx512_bf16} -mamx-tile -mamx-int8 -mamx-bf16)

function(aerogel_set_cpu_level_flags)
  foreach(source IN LISTS ARGN)
    if(source MATCHES "/src/kernels/cpu/(avx2|avxvnni|avx512|avx512_bf16|amx)/")
      set(options ${AEROGEL_FLAGS_${CMAKE_MATCH_1}} -fno-semantic-interposition)
      if(CMAKE_BUILD_TYPE STREQUAL "Debug")
        list(APPEND options -O2)
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${options}")
    endif()
  endforeach()
endfunction()
