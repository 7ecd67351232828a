# Runs the suites whose results depend on the CPU level once more with the level held down, so that a machine
# with AVX-512 also tests what the others would run. A machine below the level skips the entry. The suites of
# kernels/ are not among them: they walk every row that the machine has, whatever the level.

set(level_suites "")
foreach(source IN LISTS test_sources)
  if(source MATCHES "/tests/(ops|quant|sparse|model)/" AND NOT source MATCHES "tokenizer")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
    file(STRINGS ${source} lines REGEX "^(TYPED_)?TEST(_F|_P|_SUITE_P)?\\(")
    foreach(line IN LISTS lines)
      if(line MATCHES "\\(([A-Za-z0-9_]+),")
        list(APPEND level_suites "${CMAKE_MATCH_1}.*" "*/${CMAKE_MATCH_1}.*" "${CMAKE_MATCH_1}/*" "*/${CMAKE_MATCH_1}/*")
      endif()
    endforeach()
  endif()
endforeach()
list(REMOVE_DUPLICATES level_suites)
list(JOIN level_suites ":" level_filter)

set(lower_levels baseline avx2 avxvnni avx512 avx512_bf16)

if(level_filter)
  foreach(level IN LISTS lower_levels)
    add_test(NAME held_down/${level} COMMAND aerogel_tests --gtest_brief=1 --gtest_filter=${level_filter}
      WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
    set_tests_properties(held_down/${level} PROPERTIES TIMEOUT 1200 LABELS level
      ENVIRONMENT AEROGEL_CPU=${level} SKIP_RETURN_CODE 77)
    # The bounds of the Python package's tests hold at every level too.
    aerogel_python_tests(held_down/${level}_python level tests/python/test_attention.py
      tests/python/test_quantized_attention.py tests/python/test_linear.py tests/sparse/test_precision.py)
    set_tests_properties(held_down/${level}_python PROPERTIES
      SKIP_REGULAR_EXPRESSION "AEROGEL_CPU=.* asks for more than this CPU has"
      ENVIRONMENT "AEROGEL_CPU=${level};${python_environment}")
  endforeach()
endif()
