# CUDA kernels: nvcc makes a cubin of each source and target (through ccache), fatbinary puts a source's cubins into one
# compressed file, and a generated source embeds that. Nothing else is compiled by nvcc, and nothing links to CUDA.

set(AEROGEL_CUDA AUTO CACHE STRING "Kernels for NVIDIA GPUs: ON, OFF, or AUTO (on where nvcc is found)")
set_property(CACHE AEROGEL_CUDA PROPERTY STRINGS AUTO ON OFF)

# nvcc of the machine or of the Python environment (scripts/setup.sh).
if(AEROGEL_CUDA)
  file(GLOB AEROGEL_NVCC_OF_PYPI ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu13/bin)
  find_program(AEROGEL_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDACXX} PATHS ${AEROGEL_NVCC_OF_PYPI} /usr/local/cuda/bin)
  if(NOT AEROGEL_NVCC)
    if(NOT AEROGEL_CUDA STREQUAL "AUTO")
      message(FATAL_ERROR "AEROGEL_CUDA needs nvcc: scripts/setup.sh installs it, or name it by -DAEROGEL_NVCC=...")
    endif()
    message(STATUS "CUDA kernels: off, there is no nvcc")
    set(AEROGEL_CUDA OFF)
  else()
    message(STATUS "CUDA kernels: on, ${AEROGEL_NVCC}")
    set(AEROGEL_CUDA ON)
  endif()
endif()

# The folder of nvcc's companions: nvcc itself may be a script or a link.
function(aerogel_find_fatbinary)
  if(AEROGEL_FATBINARY)
    return()
  endif()
  execute_process(COMMAND ${AEROGEL_NVCC} --dryrun -cubin -o /dev/null -x cu /dev/null
    ERROR_VARIABLE told OUTPUT_QUIET)
  string(REGEX MATCH "_HERE_=([^\n]*)" found "${told}")
  find_program(AEROGEL_FATBINARY fatbinary HINTS ${CMAKE_MATCH_1} REQUIRED)
endfunction()

# aerogel_cuda_kernel(NAME TARGETS sm_80 sm_90a ...): src/kernels/cuda/NAME.cu becomes NAME_image of launch.h in the
# library. The names are collected for the emulator of the tests, which compiles the same sources with the C++ compiler.
function(aerogel_cuda_kernel name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "TARGETS")
  set_property(GLOBAL APPEND PROPERTY AEROGEL_CUDA_KERNELS ${name})
  set(source ${PROJECT_SOURCE_DIR}/src/kernels/cuda/${name}.cu)
  set(folder ${PROJECT_BINARY_DIR}/cuda)
  file(MAKE_DIRECTORY ${folder})
  set(images)
  set(cubins)
  foreach(target IN LISTS arg_TARGETS)
    string(REGEX REPLACE "^sm_" "" sm ${target})
    set(cubin ${folder}/${name}.${target}.cubin)
    add_custom_command(OUTPUT ${cubin}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${AEROGEL_NVCC} -cubin -c ${source} -o ${cubin}
        -gencode arch=compute_${sm},code=${target} -std=c++20 --expt-relaxed-constexpr -I ${PROJECT_SOURCE_DIR}/src
        -I ${PROJECT_SOURCE_DIR}/include -fmad=false -Xptxas -warn-spills,-warn-lmem-usage -Werror all-warnings
        -ccbin ${CMAKE_CXX_COMPILER} -MD -MF ${cubin}.d
      DEPFILE ${cubin}.d DEPENDS ${source} VERBATIM COMMENT "nvcc ${name}.cu for ${target}")
    list(APPEND cubins ${cubin})
    list(APPEND images --image3=kind=elf,sm=${sm},file=${cubin})
  endforeach()
  set(binary ${folder}/${name}.fatbin)
  add_custom_command(OUTPUT ${binary}
    COMMAND ${AEROGEL_FATBINARY} --create=${binary} --64 --compress-mode=size ${images}
    DEPENDS ${cubins} VERBATIM COMMENT "")
  configure_file(${PROJECT_SOURCE_DIR}/cmake/cuda_image.cpp.in ${folder}/${name}_image.cpp @ONLY)
  set_source_files_properties(${folder}/${name}_image.cpp PROPERTIES OBJECT_DEPENDS ${binary}
    SKIP_UNITY_BUILD_INCLUSION ON)
  target_sources(aerogel PRIVATE ${folder}/${name}_image.cpp)
endfunction()

function(aerogel_cuda_kernels)
  if(AEROGEL_CUDA)
    aerogel_find_fatbinary()
    include(${PROJECT_SOURCE_DIR}/src/kernels/cuda/kernels.cmake)
  endif()
endfunction()
