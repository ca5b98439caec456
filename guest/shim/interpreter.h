#ifndef RLM_INTERPRETER_H
#define RLM_INTERPRETER_H

/* Starts CPython over the frozen modules, isolated and the same each time. Extension modules of ours
 * are announced before. */
void rlm_start(void);
/* Makes every object there is immortal. Once, when nothing more is imported. */
void rlm_immortalise(void);
/* Prints what is wrong, and the Python error if there is one, and traps. */
_Noreturn void rlm_die(const char *what);

#endif
