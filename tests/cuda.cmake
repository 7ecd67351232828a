# The suites of kernels once more over the CUDA machine: its rows run in the emulator (tests/emulator), each on cards that
# it is for. The suites themselves are those of the CPU (tests/kernels/cpu_kernels.h).

if(NOT AEROGEL_CUDA OR NOT TARGET aerogel_fake_driver)
  return()
endif()

set(cuda_driver AEROGEL_CUDA_DRIVER=$<TARGET_FILE:aerogel_fake_driver>)
# What a card answered (bench/gpu.py), where one was at hand.
set(golden ${CMAKE_CURRENT_SOURCE_DIR}/problems/golden.safetensors)
if(EXISTS ${golden})
  list(APPEND cuda_driver AEROGEL_GOLDEN=${golden})
endif()
set(cuda_suites "ConvolutionKernels.WithinBounds:ConvolutionKernels.WinogradIsAlmostAsExactAsSums:ElementwiseKernels.*:Hadamard.*:LinearKernels.*:LinearRotation.*:MachineUnderTest.*")

# sm: the card; machine: cuda for all rows, cuda_own for those that not every card has. sm_100 has no row of its own.
function(aerogel_cuda_suite sm machine)
  add_test(NAME cuda/conformance_sm${sm} COMMAND aerogel_tests --gtest_brief=1 --gtest_filter=${cuda_suites}
    WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(cuda/conformance_sm${sm} PROPERTIES TIMEOUT 900 LABELS cuda COST 20
    ENVIRONMENT "${cuda_driver};AEROGEL_TEST_MACHINE=${machine};AEROGEL_FAKE_SM=${sm};AEROGEL_CUDA_MEMORY=exact")
endfunction()
aerogel_cuda_suite(80 cuda)
foreach(sm IN ITEMS 89 90 120)
  aerogel_cuda_suite(${sm} cuda_own)
endforeach()

# PyTorch's tensors on the same fake GPU (torch_cuda/fake_cuda.py), whatever PyTorch it is: the CPU's will do.
execute_process(COMMAND ${AEROGEL_PYTHON} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
  OUTPUT_VARIABLE torch_folder OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(EXISTS "${torch_folder}/lib/libtorch_cpu.so")
  add_library(fake_cuda_guard MODULE torch_cuda/fake_cuda_guard.cpp)
  target_compile_features(fake_cuda_guard PRIVATE cxx_std_20)
  target_include_directories(fake_cuda_guard SYSTEM PRIVATE ${torch_folder}/include)
  target_link_libraries(fake_cuda_guard PRIVATE ${torch_folder}/lib/libc10.so ${torch_folder}/lib/libtorch_cpu.so)
  set_target_properties(fake_cuda_guard PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
  add_dependencies(fake_cuda_guard aerogel_fake_driver)
endif()

set_source_files_properties(${CMAKE_CURRENT_SOURCE_DIR}/ops/cuda_device_test.cpp PROPERTIES
  COMPILE_DEFINITIONS AEROGEL_FAKE_DRIVER="${PROJECT_BINARY_DIR}/libaerogel_fake_driver.so")
add_dependencies(aerogel_tests aerogel_fake_driver)
