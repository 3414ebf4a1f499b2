# Where runtimes are found, and how the sessions that are modules are built. runtime_<backend>.cmake uses what is here and sets
# `found` to the library that a session loads when a student is opened: the runtime's, or the module's (src/module.hpp).
include_guard(GLOBAL)

# Set `roots` to the folders that may hold a backend's runtime, and `asked` to those that the user named: EDGEKD_<BACKEND>_ROOT,
# a variable of CMake or of the environment; where it is not set, the folders of these packages of the active Python.
function(edgekd_runtime_roots backend)
  string(TOUPPER "EDGEKD_${backend}_ROOT" variable)
  set(asked "${${variable}}")
  if(NOT asked)
    set(asked "$ENV{${variable}}")
  endif()
  set(roots "${asked}")
  if(NOT asked AND NOT CMAKE_CROSSCOMPILING)
    foreach(package IN LISTS ARGN)
      get_property(known GLOBAL PROPERTY EDGEKD_PACKAGE_${package} SET)
      if(NOT known)
        set(Python3_FIND_VIRTUALENV FIRST)
        find_package(Python3 QUIET COMPONENTS Interpreter)
        set(place "")
        if(Python3_Interpreter_FOUND)
          execute_process(COMMAND "${Python3_EXECUTABLE}" -c
            "import importlib.util as u; s = u.find_spec('${package}'); print(s.submodule_search_locations[0] if s else '')"
            OUTPUT_VARIABLE place OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
        endif()
        set_property(GLOBAL PROPERTY EDGEKD_PACKAGE_${package} "${place}")
      endif()
      get_property(place GLOBAL PROPERTY EDGEKD_PACKAGE_${package})
      list(APPEND roots ${place})
    endforeach()
  endif()
  set(roots "${roots}" PARENT_SCOPE)
  set(asked "${asked}" PARENT_SCOPE)
endfunction()

# Set `found` to the first file in `roots`, or in these folders inside them, whose name begins with `stem`.
function(edgekd_in_roots stem)
  foreach(root IN LISTS roots)
    foreach(folder IN ITEMS "." "lib" LISTS ARGN)
      file(GLOB libraries "${root}/${folder}/${stem}.so*" "${root}/${folder}/${stem}*.dylib")
      if(libraries)
        list(SORT libraries)
        list(GET libraries 0 library)
        get_filename_component(library "${library}" ABSOLUTE)
        set(found "${library}" PARENT_SCOPE)
        return()
      endif()
    endforeach()
  endforeach()
endfunction()

# Say that a runtime is missing and with which command to mend it: as a warning where a bundle needs it, else as a remark.
function(edgekd_runtime_missing backend what cure)
  string(TOUPPER "EDGEKD_${backend}_ROOT" variable)
  if(asked)
    set(where "${variable}=${asked} holds no ${what}")
  else()
    set(where "${what} is neither in the active Python nor in the system")
  endif()
  if(needed)
    message(WARNING "edgekd: ${where}. The app will look for it when it starts: ${cure} and run CMake again, or say "
      "-D${variable}=<folder that holds it>")
  else()
    message(STATUS "edgekd: ${where}: no ${backend}")
  endif()
endfunction()

# The library that a backend's session loads, as runtime_<backend>.cmake finds it; empty if there is none. It is loaded when a
# student is opened, so the app builds without it. With NEEDED, what is missing is a warning.
function(edgekd_find_runtime backend result)
  set(needed FALSE)
  if("NEEDED" IN_LIST ARGN)
    set(needed TRUE)
  endif()
  get_property(found GLOBAL PROPERTY EDGEKD_RUNTIME_${backend})
  if(NOT found AND EXISTS "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/runtime_${backend}.cmake")
    include("${CMAKE_CURRENT_FUNCTION_LIST_DIR}/runtime_${backend}.cmake")
    set_property(GLOBAL PROPERTY EDGEKD_RUNTIME_${backend} "${found}")
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

# edgekd_add_module(BACKEND [STANDARD N] [RPATH DIR] [INCLUDES ...] [DEFINITIONS ...] [LIBRARIES ...]): build
# src/module_<backend>.cpp against the runtime's headers into libedgekd_<backend>.so, and set `found` to it.
function(edgekd_add_module backend)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "STANDARD;RPATH" "INCLUDES;DEFINITIONS;LIBRARIES")
  if(NOT arg_STANDARD)
    set(arg_STANDARD 17)
  endif()
  set(target edgekd_module_${backend})
  set(source "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/src")
  set(folder "${CMAKE_BINARY_DIR}/edgekd")
  add_library(${target} MODULE "${source}/module_${backend}.cpp")
  target_include_directories(${target} PRIVATE "${source}"
    "$<TARGET_PROPERTY:edgekd::edgekd,INTERFACE_INCLUDE_DIRECTORIES>")
  target_include_directories(${target} SYSTEM PRIVATE ${arg_INCLUDES})
  target_compile_definitions(${target} PRIVATE ${arg_DEFINITIONS})
  target_compile_features(${target} PRIVATE cxx_std_${arg_STANDARD})
  target_compile_options(${target} PRIVATE -fexceptions "$<$<CONFIG:>:-O2>")
  target_link_libraries(${target} PRIVATE ${arg_LIBRARIES})
  set_target_properties(${target} PROPERTIES
    PREFIX lib OUTPUT_NAME edgekd_${backend} SUFFIX .so LIBRARY_OUTPUT_DIRECTORY "${folder}$<0:>"
    CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    BUILD_RPATH "${arg_RPATH}" INSTALL_RPATH "${arg_RPATH}")
  set(found "${folder}/libedgekd_${backend}.so" PARENT_SCOPE)
endfunction()
