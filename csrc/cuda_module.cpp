// The module of the CUDA kernels: its import runs the registrations of all .cu files linked into
// this library. It describes its build by a function, because build_info is an op of mrcnn_C.
#include <Python.h>

#include "cuda_build_info.h"

namespace {

PyObject* build_info(PyObject*, PyObject*) { return PyUnicode_FromString(MRCNN_CUDA_BUILD_INFO); }

PyMethodDef functions[] = {{"build_info", build_info, METH_NOARGS, nullptr}, {}};

}  // namespace

PyMODINIT_FUNC PyInit_mrcnn_CUDA() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "mrcnn_CUDA", nullptr, -1, functions};
  return PyModule_Create(&module);
}
