/* runtimes.h: which runtimes this package was made with. */
#ifndef EDGEKD_RUNTIMES_H
#define EDGEKD_RUNTIMES_H

#include <edgekd/edgekd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Make them known to the library: once, before the first student is opened. Further calls do nothing. */
EDGEKD_API void edgekd_link_runtimes(void) EDGEKD_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
