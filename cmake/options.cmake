# Compiler settings shared by every target: build type, warnings, sanitizers, ccache.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo" FORCE)
endif()

if(NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(AEROGEL_CCACHE ccache)
  mark_as_advanced(AEROGEL_CCACHE)
  if(AEROGEL_CCACHE)
    set(CMAKE_CXX_COMPILER_LAUNCHER ${AEROGEL_CCACHE})
  endif()
endif()

# The sources of a folder become one for the compiler: headers are read, and inline functions of libraries compiled,
# once for all of them. A full build takes less than half the time; changing one file compiles its neighbours too, and
# what one file keeps in its unnamed namespace must have another name than its neighbours' (CONTRIBUTING.md).
# Large sources stay alone: kernels, which have flags of their own, and what includes Eigen.
option(AEROGEL_UNITY "Compile the sources of a folder at once" ON)
function(aerogel_compile_together target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${AEROGEL_UNITY} UNITY_BUILD_MODE GROUP)
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources EXCLUDE REGEX "/src/kernels/|/(gptq|low_rank)\\.cpp$")
  foreach(source IN LISTS sources)
    file(RELATIVE_PATH folder ${PROJECT_SOURCE_DIR} ${source})
    cmake_path(GET folder PARENT_PATH folder)
    string(REPLACE "/" "_" folder ${folder})
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${folder})
  endforeach()
endfunction()

# Every target of this project calls this. No fused multiply-add behind our back: where rounding matters,
# the code says so with intrinsics, and results do not depend on what the compiler felt like contracting.
function(aerogel_target_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wshadow -Wconversion
    # Adding a literal to a std::string sets off a false alarm in GCC 12 (its bug 105651).
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
    -ffp-contract=off -fno-math-errno
    $<$<BOOL:${AEROGEL_WERROR}>:-Werror>)
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF POSITION_INDEPENDENT_CODE ON)
  if(AEROGEL_LIBFUZZER)
    target_compile_options(${target} PRIVATE -fsanitize=fuzzer-no-link)  # counts the branches that an input takes
  endif()
  if(AEROGEL_SANITIZE)
    target_compile_options(${target} PRIVATE
      -fsanitize=${AEROGEL_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${AEROGEL_SANITIZE})
  endif()
endfunction()
