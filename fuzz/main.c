/* libFuzzer around a target that is a Cython module: fuzz_<target>.pyx with
 *
 *   cdef api int one_input(const uint8_t *data, size_t size) noexcept nogil
 *
 * An interpreter is embedded to load the module and the engine's extension modules, all of
 * them compiled with coverage feedback. After that no input costs any Python: the GIL is given
 * back for good and the function behind the module's capsule is called.
 *
 *   build/fuzz/fuzz --target=NAME [libFuzzer's own arguments]
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sanitizer/lsan_interface.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int (*OneInput)(const uint8_t *, size_t);

static OneInput one_input;

/* Time stands still for who asks for seconds: OpenSSL, which puts it into tickets and holds it
 * against certificates. The engine and libFuzzer have other clocks. */
time_t time(time_t *now)
{
    const time_t moment = 1798761600;     /* the first day of 2027 */
    if (now != NULL)
        *now = moment;
    return moment;
}

static void die(const char *what)
{
    if (PyErr_Occurred())
        PyErr_Print();
    fprintf(stderr, "fuzz: %s\n", what);
    exit(2);
}

static void start_python(void)
{
    PyConfig config;
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0;   /* libFuzzer has its own */
    /* The venv's python, so that its paths are found. */
    if (getenv("FUZZ_PYTHON") != NULL
        && PyStatus_Exception(
            PyConfig_SetBytesString(&config, &config.program_name, getenv("FUZZ_PYTHON"))))
        die("FUZZ_PYTHON can not be used");
    if (PyStatus_Exception(Py_InitializeFromConfig(&config)))
        die("Python does not start");
    PyConfig_Clear(&config);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char name[80] = "";
    PyObject *module, *api, *capsule;
    for (int index = 1; index < *argc; index++)
        if (strncmp((*argv)[index], "--target=", 9) == 0)
            snprintf(name, sizeof(name), "fuzz_%s", (*argv)[index] + 9);
    if (name[0] == 0)
        die("which --target=?");
    signal(SIGPIPE, SIG_IGN);             /* as Python does, had it its signals */
    __lsan_disable();                     /* what Python keeps to its end is no leak */
    start_python();
    module = PyImport_ImportModule(name);
    if (module == NULL)
        die("no such target");
    api = PyObject_GetAttrString(module, "__pyx_capi__");
    capsule = api == NULL ? NULL : PyDict_GetItemString(api, "one_input");
    if (capsule == NULL)
        die("the target has no one_input()");
    one_input = (OneInput)PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule));
    PyEval_SaveThread();
    __lsan_enable();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    return one_input(data, size);
}
