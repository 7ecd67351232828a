# Kinds of machines besides the CPU, each a folder of src/kernels and an option of CMakeLists.txt named like it:
# option(AEROGEL_NAME "Kernels for ..." OFF). Without the option the folder is left out.

# Takes the folders of machines without their option out of the list of sources; the others' options become
# definitions, which src/ops/machines.cpp asks.
function(aerogel_choose_machines sources_name definitions_name)
  set(chosen ${${sources_name}})
  set(defined)
  file(GLOB folders RELATIVE ${PROJECT_SOURCE_DIR}/src/kernels ${PROJECT_SOURCE_DIR}/src/kernels/*/list.h)
  foreach(list_header IN LISTS folders)
    cmake_path(GET list_header PARENT_PATH machine)
    string(TOUPPER ${machine} option)
    if(machine STREQUAL "cpu")
      continue()
    elseif(AEROGEL_${option})
      list(APPEND defined AEROGEL_${option})
    else()
      list(FILTER chosen EXCLUDE REGEX "/src/kernels/${machine}/")
    endif()
  endforeach()
  set(${sources_name} ${chosen} PARENT_SCOPE)
  set(${definitions_name} ${defined} PARENT_SCOPE)
endfunction()
