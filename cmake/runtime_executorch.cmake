# ExecuTorch, in its wheel or where it was installed: headers and libraries, for src/module_executorch.cpp. Below CMake 3.28 its
# package defines no targets, so what it says in variables is taken; those it fills in either way.
edgekd_runtime_roots(executorch executorch)
set(EXECUTORCH_FOUND OFF)
foreach(root IN LISTS roots)
  if(NOT EXECUTORCH_FOUND AND (EXISTS "${root}/share/cmake/executorch-config.cmake" OR EXISTS "${root}/lib/cmake/ExecuTorch"))
    set(CMAKE_MESSAGE_LOG_LEVEL WARNING)
    find_package(executorch QUIET CONFIG NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH PATHS "${root}/share/cmake" "${root}")
    unset(CMAKE_MESSAGE_LOG_LEVEL)
    unset(executorch_DIR CACHE)
  endif()
endforeach()
if(EXECUTORCH_FOUND)
  set(libraries ${EXECUTORCH_LIBRARIES} ${EXECUTORCH_QUANTIZED_KERNELS_LIBRARY})
  list(FILTER libraries EXCLUDE REGEX "etdump|backend_(openvino|qnn|cuda)|extension_cuda") # the engines need XNNPACK's alone
  edgekd_add_module(executorch
    STANDARD "${EXECUTORCH_CXX_STANDARD}" RPATH "${EXECUTORCH_RUNTIME_LIBRARY_DIR}" INCLUDES ${EXECUTORCH_INCLUDE_DIRS}
    DEFINITIONS ${EXECUTORCH_COMPILE_DEFINITIONS} "EDGEKD_RUNTIME_VERSION=\"${EXECUTORCH_BUILD_VERSION}\""
    LIBRARIES ${libraries})
else()
  edgekd_runtime_missing(executorch "C++ library of ExecuTorch" "`pip install executorch`")
endif()
