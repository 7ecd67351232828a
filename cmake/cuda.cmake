# CUDA kernels: nvcc makes a cubin of each source and target (through ccache), fatbinary puts a source's cubins into one
# compressed file, and a generated source embeds that. Nothing else is compiled by nvcc, and nothing links to CUDA.

set(AEROGEL_CUDA AUTO CACHE STRING "Kernels for NVIDIA GPUs: ON, OFF, or AUTO (on where nvcc is found)")
set_property(CACHE AEROGEL_CUDA PROPERTY STRINGS AUTO ON OFF)
set(AEROGEL_CUDA_NEEDED 13.0)  # what has been tested; scripts/setup.sh and src/core/cuda_driver.cpp say it too

# The validator of find_program: whether it is new enough. What is not is kept for the message.
function(aerogel_check_nvcc result nvcc)
  execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE told ERROR_QUIET RESULT_VARIABLE code)
  if(NOT code EQUAL 0 OR NOT told MATCHES "release ([0-9]+\\.[0-9]+)")
    set(CMAKE_MATCH_1 "of no known version")
  elseif(CMAKE_MATCH_1 VERSION_GREATER_EQUAL AEROGEL_CUDA_NEEDED)
    return()
  endif()
  set_property(GLOBAL PROPERTY AEROGEL_NVCC_REFUSED "${nvcc} is ${CMAKE_MATCH_1}, needed is ${AEROGEL_CUDA_NEEDED}")
  set(${result} FALSE PARENT_SCOPE)
endfunction()

# fatbinary lies in the folder of nvcc's companions: nvcc itself may be a script or a link.
function(aerogel_find_fatbinary)
  if(DEFINED CACHE{AEROGEL_FATBINARY_OF} AND NOT AEROGEL_FATBINARY_OF STREQUAL AEROGEL_NVCC)
    unset(AEROGEL_FATBINARY CACHE)
  endif()
  set(AEROGEL_FATBINARY_OF ${AEROGEL_NVCC} CACHE INTERNAL "the nvcc whose companion was looked for")
  execute_process(COMMAND ${AEROGEL_NVCC} --dryrun -cubin -o /dev/null -x cu /dev/null
    ERROR_VARIABLE told OUTPUT_QUIET)
  string(REGEX MATCH "_HERE_=([^\n]*)" found "${told}")
  find_program(AEROGEL_FATBINARY fatbinary HINTS ${CMAKE_MATCH_1})
endfunction()

# nvcc of the machine or of the Python environment (scripts/setup.sh). `why` becomes empty, or why there is none.
function(aerogel_find_nvcc why)
  file(GLOB of_pypi ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu13/bin)
  find_program(AEROGEL_NVCC NAMES $ENV{CUDACXX} nvcc HINTS $ENV{CUDA_HOME}/bin PATHS ${of_pypi} /usr/local/cuda/bin
    VALIDATOR aerogel_check_nvcc)
  set(new TRUE)
  if(AEROGEL_NVCC)  # which may have been given
    aerogel_check_nvcc(new ${AEROGEL_NVCC})
  endif()
  get_property(refused GLOBAL PROPERTY AEROGEL_NVCC_REFUSED)
  if(NOT AEROGEL_NVCC OR NOT new)
    string(REGEX REPLACE "^$" "there is no nvcc" refused "${refused}")
    set(${why} "${refused}" PARENT_SCOPE)
    return()
  endif()
  aerogel_find_fatbinary()
  set(${why} "" PARENT_SCOPE)
  if(NOT AEROGEL_FATBINARY)
    set(${why} "${AEROGEL_NVCC} has no fatbinary beside it" PARENT_SCOPE)
  endif()
endfunction()

if(AEROGEL_CUDA)
  aerogel_find_nvcc(why_no_nvcc)
  if(why_no_nvcc STREQUAL "")
    message(STATUS "CUDA kernels: on, ${AEROGEL_NVCC}")
    set(AEROGEL_CUDA ON)
  elseif(AEROGEL_CUDA STREQUAL "AUTO")
    message(STATUS "CUDA kernels: off, ${why_no_nvcc}")
    set(AEROGEL_CUDA OFF)
  else()
    message(FATAL_ERROR "AEROGEL_CUDA needs nvcc, but ${why_no_nvcc}: scripts/setup.sh installs one, or name it by "
      "-DAEROGEL_NVCC=...")
  endif()
endif()

# aerogel_cuda_kernel(NAME TARGETS sm_80 sm_90a ...): src/kernels/cuda/NAME.cu becomes kNAMEImage of launch.h in the
# library; with FOLDER and INTO that of another folder in another target. The emulator of the tests compiles the same
# sources with the C++ compiler.
function(aerogel_cuda_kernel name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "FOLDER;INTO" "TARGETS")
  if(NOT arg_INTO)
    set(arg_INTO aerogel)
    set(arg_FOLDER ${PROJECT_SOURCE_DIR}/src/kernels/cuda)
  endif()
  set(source ${arg_FOLDER}/${name}.cu)
  set(of_tests)
  if(NOT arg_INTO STREQUAL "aerogel")
    set(of_tests -I ${PROJECT_SOURCE_DIR}/tests)
  endif()
  set(folder ${PROJECT_BINARY_DIR}/cuda)
  file(MAKE_DIRECTORY ${folder})
  set(images)
  set(cubins)
  set(werror)
  if(AEROGEL_WERROR)
    set(werror -Werror all-warnings)
  endif()
  foreach(target IN LISTS arg_TARGETS)
    string(REGEX REPLACE "^sm_" "" sm ${target})
    set(cubin ${folder}/${name}.${target}.cubin)
    add_custom_command(OUTPUT ${cubin}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${AEROGEL_NVCC} -cubin -c ${source} -o ${cubin}
        -gencode arch=compute_${sm},code=${target} -std=c++20 --expt-relaxed-constexpr -I ${PROJECT_SOURCE_DIR}/src
        -I ${PROJECT_SOURCE_DIR}/include ${of_tests} -fmad=false -Xptxas -warn-spills,-warn-lmem-usage ${werror}
        -ccbin ${CMAKE_CXX_COMPILER} -MD -MF ${cubin}.d
      DEPFILE ${cubin}.d DEPENDS ${source} VERBATIM COMMENT "nvcc ${name}.cu for ${target}")
    list(APPEND cubins ${cubin})
    list(APPEND images --image3=kind=elf,sm=${sm},file=${cubin})
  endforeach()
  set(binary ${folder}/${name}.fatbin)
  add_custom_command(OUTPUT ${binary}
    COMMAND ${AEROGEL_FATBINARY} --create=${binary} --64 --compress-mode=size ${images}
    DEPENDS ${cubins} VERBATIM COMMENT "")
  # int8_attention: kInt8AttentionImage
  string(REPLACE "_" ";" words ${name})
  set(image k)
  foreach(word IN LISTS words)
    string(SUBSTRING ${word} 0 1 first)
    string(SUBSTRING ${word} 1 -1 rest)
    string(TOUPPER ${first} first)
    string(APPEND image ${first}${rest})
  endforeach()
  string(APPEND image Image)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/cuda_image.cpp.in ${folder}/${name}_image.cpp @ONLY)
  set_source_files_properties(${folder}/${name}_image.cpp PROPERTIES OBJECT_DEPENDS ${binary}
    SKIP_UNITY_BUILD_INCLUSION ON)
  target_sources(${arg_INTO} PRIVATE ${folder}/${name}_image.cpp)
endfunction()

function(aerogel_cuda_kernels)
  if(AEROGEL_CUDA)
    include(${PROJECT_SOURCE_DIR}/src/kernels/cuda/kernels.cmake)
  endif()
endfunction()
