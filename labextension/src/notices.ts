import { Dialog, Notification, showDialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';

import { SnapshotError } from './api';

/** Of a notification; JupyterLab cuts what is longer. */
const MAX_LENGTH = 140;

/** What takes no longer is not announced, so that nothing flashes, in ms. */
const PATIENCE_MS = 250;

/** A button of a notification. */
export interface INoticeAction {
  label: string;
  caption?: string;
  isMain?: boolean;
  callback: () => void;
}

/** What to say when it went well. */
export interface IOutcome {
  message: string;
  actions?: INoticeAction[];
  /** Sentences of the server that somebody should read. */
  warnings?: readonly string[];
}

/**
 * Tells people how operations go.
 */
export class Notices {
  /**
   * @param saysSuccess Whether somebody wants to hear of it.
   */
  constructor(
    private readonly trans: TranslationBundle,
    private readonly saysSuccess: () => boolean
  ) {}

  /**
   * Do something, and tell how it goes: that it takes long, and how far it is; what came
   * of it; or what went wrong, and what can be done about it.
   *
   * @param pending What is being done.
   * @param cancel Calls it off.
   * @returns What `work` does; undefined if it failed, since that has been told.
   */
  async during<T>(
    pending: string,
    work: (report: (fraction: number) => void) => Promise<T>,
    outcome: (result: T) => IOutcome,
    options: {
      cancel?: () => void;
      failure?: (error: SnapshotError) => INoticeAction[];
    } = {}
  ): Promise<T | undefined> {
    // What was done before can be undone as long as nothing else is done.
    if (this.told) {
      Notification.dismiss(this.told);
    }
    let id = '';
    let progress: number | undefined;
    const timer = window.setTimeout(() => {
      id = Notification.emit(pending, 'in-progress', {
        autoClose: false,
        progress,
        actions: options.cancel
          ? [
              {
                label: this.trans.__('Cancel'),
                callback: event => {
                  event.preventDefault();
                  options.cancel!();
                }
              }
            ]
          : []
      });
    }, PATIENCE_MS);
    try {
      const result = await work(fraction => {
        progress = fraction;
        if (id) {
          Notification.update({ id, progress });
        }
      });
      window.clearTimeout(timer);
      if (id) {
        Notification.dismiss(id);
      }
      this.tell(outcome(result));
      return result;
    } catch (error) {
      window.clearTimeout(timer);
      if (id) {
        Notification.dismiss(id);
      }
      this.fail(error, options.failure);
      return undefined;
    }
  }

  /** Tell what went well. */
  tell(outcome: IOutcome): void {
    const warnings = outcome.warnings ?? [];
    if (!this.saysSuccess() && !warnings.length) {
      return;
    }
    const actions = (outcome.actions ?? []).map(asAction);
    const text = [outcome.message, ...warnings].join(' ');
    if (text.length > MAX_LENGTH) {
      actions.push(this.details(outcome.message, warnings.join('\n\n')));
    }
    this.told = Notification.emit(
      text,
      warnings.length ? 'warning' : 'success',
      { autoClose: warnings.length ? 10000 : 6000, actions }
    );
  }

  /** Tell something with one button, which is there as long as it can be used. */
  tellFor(duration: number, message: string, action: INoticeAction): void {
    const id = Notification.emit(message, 'default', {
      autoClose: duration,
      actions: [asAction(action)]
    });
    // JupyterLab keeps notifications in its list after they are gone from the screen.
    window.setTimeout(() => Notification.dismiss(id), duration);
  }

  /** Tell what went wrong, with the next step. */
  fail(
    error: unknown,
    more: (error: SnapshotError) => INoticeAction[] = () => []
  ): void {
    const problem =
      error instanceof SnapshotError
        ? error
        : new SnapshotError((error as Error).message ?? String(error));
    if (problem.kind === 'Cancelled') {
      Notification.emit(problem.message, 'info', { autoClose: 4000 });
      return;
    }
    const actions = more(problem).map(asAction);
    if (sentences(problem).length > MAX_LENGTH) {
      actions.push(this.details(problem.message, problem.hint));
    }
    Notification.emit(shorten(problem), 'error', { autoClose: false, actions });
  }

  /** The notification of what was done last. */
  private told = '';

  private details(message: string, more: string): Notification.IAction {
    return {
      label: this.trans.__('Details'),
      callback: event => {
        event.preventDefault();
        void showDialog({
          title: message,
          body: more,
          buttons: [Dialog.okButton({ label: this.trans.__('Close') })]
        });
      }
    };
  }
}

/** Message and next step, as sentences. */
function sentences({ message, hint }: SnapshotError): string {
  const isWhole = !hint || /[.!?:;]$/.test(message);
  const first = message.charAt(0).toLocaleUpperCase() + message.slice(1);
  return [isWhole ? first : `${first}.`, hint].filter(Boolean).join(' ');
}

/** Both to be seen: the message is cut if there is no room. */
function shorten(problem: SnapshotError): string {
  const { message, hint } = problem;
  const text = sentences(problem);
  if (text.length <= MAX_LENGTH || hint.length > MAX_LENGTH - 40) {
    return text;
  }
  return `${message.slice(0, MAX_LENGTH - hint.length - 2).trimEnd()}… ${hint}`;
}

function asAction(action: INoticeAction): Notification.IAction {
  return {
    label: action.label,
    caption: action.caption,
    displayType: action.isMain ? 'accent' : 'default',
    callback: action.callback
  };
}
