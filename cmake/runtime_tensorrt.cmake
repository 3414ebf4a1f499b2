# TensorRT's headers, for src/module_tensorrt.cpp, and CUDA's, which they include: on a Jetson where JetPack puts them, else in the
# system, or in the folder of an archive. Its library and CUDA's are loaded when a student is opened: a cross build needs the
# headers only.
edgekd_runtime_roots(tensorrt)
set(place "")
if(asked)
  set(place PATHS ${asked} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH)
endif()
find_path(EDGEKD_TENSORRT_HEADERS NvInferRuntime.h PATH_SUFFIXES include aarch64-linux-gnu x86_64-linux-gnu ${place})
find_path(EDGEKD_CUDA_HEADERS cuda_runtime_api.h PATH_SUFFIXES include targets/aarch64-linux/include
  HINTS ${asked} "$ENV{CUDA_HOME}" "$ENV{CUDA_PATH}" /usr/local/cuda)
set(headers "${EDGEKD_TENSORRT_HEADERS}")
set(cuda "${EDGEKD_CUDA_HEADERS}")
unset(EDGEKD_TENSORRT_HEADERS CACHE)
unset(EDGEKD_CUDA_HEADERS CACHE)
if(headers AND cuda)
  set(libraries "")
  if(asked)
    edgekd_in_roots(libnvinfer lib targets/aarch64-linux-gnu/lib targets/x86_64-linux-gnu/lib)
    set(libraries "EDGEKD_NVINFER=\"${found}\"")
  endif()
  edgekd_add_module(tensorrt INCLUDES ${headers} ${cuda} DEFINITIONS ${libraries} LIBRARIES ${CMAKE_DL_LIBS})
elseif(headers)
  edgekd_runtime_missing(tensorrt "header cuda_runtime_api.h of CUDA"
    "on a Jetson `sudo apt-get install nvidia-jetpack`, else install CUDA's toolkit,")
else()
  edgekd_runtime_missing(tensorrt "header NvInferRuntime.h of TensorRT"
    "on a Jetson `sudo apt-get install nvidia-jetpack`, else `sudo apt-get install tensorrt` from NVIDIA's repository,")
endif()
