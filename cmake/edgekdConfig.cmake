# find_package(edgekd CONFIG REQUIRED): edgekd::edgekd and edgekd_add_student().
# Installed, it imports the built library; in the folder that `python -m edgekd --cmake-dir` prints, it builds it with the app.
if(NOT TARGET edgekd::edgekd)
  if(EXISTS "${CMAKE_CURRENT_LIST_DIR}/edgekdTargets.cmake")
    include(CMakeFindDependencyMacro)
    find_dependency(Threads)
    include("${CMAKE_CURRENT_LIST_DIR}/edgekdTargets.cmake")
  else()
    add_subdirectory("${CMAKE_CURRENT_LIST_DIR}" "${CMAKE_CURRENT_BINARY_DIR}/edgekd" EXCLUDE_FROM_ALL)
  endif()
endif()
include("${CMAKE_CURRENT_LIST_DIR}/edgekdStudents.cmake")
